// For those who install mixins: the same dashboard, rules and alerts.
{
  grafanaDashboards+:: { 'worker-adapters.json': import 'dashboards/worker-adapters.json' },
  prometheusRules+:: std.parseYaml(importstr 'rules/worker-adapters.yaml'),
  prometheusAlerts+:: std.parseYaml(importstr 'alerts/worker-adapters.yaml'),
}
