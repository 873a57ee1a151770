Feature: A server of OpenAI's completions behind an adapter
  What an orchestrator may rely on, whatever the engine: shown on the engine's wire, over sockets.

  @OC-ADAPT-5090 @ADAPT-3000 @kills:is_always_ready
  Scenario: openai-completions: health
    Given a simulated "openai-completions" worker that is still loading
    When its health is asked for
    Then it is not ready
    When it has loaded
    And its health is asked for
    Then it is alive and ready

  @OC-ADAPT-5090 @ADAPT-3000 @kills:calls_a_worker_healthy_unasked
  Scenario: openai-completions: health of one that has gone
    Given a "openai-completions" worker that has gone
    When its health is asked for
    Then it is neither alive nor ready

  @OC-ADAPT-5090 @ADAPT-3000 @kills:invents_a_slot
  Scenario: openai-completions: properties
    Given a simulated "openai-completions" worker
    When its properties are asked for
    Then it is a "openai-completions" that serves "sim-model" with unknown slots

  @OC-ADAPT-5090 @ADAPT-3001 @kills:drops_the_last_token
  Scenario: openai-completions: completion
    Given a simulated "openai-completions" worker
    When a completion is asked for
    Then the text is all that it said
    And the events are in order and their indexes without gaps

  @OC-ADAPT-5090 @ADAPT-3101 @kills:cancels_nothing
  Scenario: openai-completions: cancel before the first token
    Given a simulated "openai-completions" worker
    And its next answers meet "stall@0:1500ms"
    When a completion is asked for and cancelled after 0 tokens
    Then it ended as cancelled, with 0 tokens
    And the worker has seen its client leave

  @OC-ADAPT-5090 @ADAPT-3101 @kills:cancels_nothing
  Scenario: openai-completions: cancel in mid-stream
    Given a simulated "openai-completions" worker
    And its next answers meet "stall@4:1500ms"
    When a completion is asked for and cancelled after 2 tokens
    Then it ended as cancelled, with 2 tokens
    And the worker has seen its client leave
    When a completion is asked for
    Then the text is all that it said

  @OC-ADAPT-5090 @ADAPT-3004 @kills:counts_a_token_too_many
  Scenario: openai-completions: metrics
    Given a simulated "openai-completions" worker
    And metrics are kept
    When a completion is asked for
    Then counters and histograms moved by what was streamed

  @OC-ADAPT-5090 @ADAPT-3600 @kills:lets_OpenAI's_route_through
  Scenario: openai-completions: no route of OpenAI's is let through
    Given a simulated "openai-completions" worker
    And an orchestrator over it
    When a client asks the orchestrator for "/v1/completions /v1/chat/completions /v1/embeddings /v1/responses /completions"
    Then each is not found
    And the worker was asked nothing

  @OC-ADAPT-5090 @kills:asks_elsewhere
  Scenario: openai-completions: one route is used
    Given a simulated "openai-completions" worker
    When a completion is asked for
    Then the worker was asked to generate at "/v1/completions" only

  @OC-ADAPT-5090 @ADAPT-3003 @kills:reports_another_version
  Scenario: openai-completions: version and digest
    Given a simulated "openai-completions" worker
    And its model's digest is known to be "sha256:c0ffee"
    When its version is asked for
    And a completion is asked for
    Then the start tells version "1.0.0" and digest "sha256:c0ffee"

  @OC-ADAPT-5090 @ADAPT-3001 @kills:has_no_patience_with_queues
  Scenario: openai-completions: enqueue and stream
    Given a simulated "openai-completions" worker with one slot
    And its next answers meet "stall@2:200ms"
    When two completions are asked for at once
    Then both texts are all that it said

  @OC-ADAPT-5090 @ADAPT-3002 @kills:never_retriable
  Scenario: openai-completions: backpressure
    Given a simulated "openai-completions" worker
    And its next answers meet "busy:2"
    And nothing is tried again
    When a completion is asked for
    Then it failed as ADMISSION_REJECT for OVERLOADED
    And an orchestrator would answer 429, to come back in 2 seconds

  @OC-ADAPT-5090 @ADAPT-3002 @kills:calls_every_error_internal
  Scenario Outline: openai-completions: error taxonomy
    Given a simulated "openai-completions" worker
    And its next answers meet "<fault>"
    And nothing is tried again
    When a completion is asked for
    Then it failed as <code> for <reason>

    Examples:
      | fault      | code             | reason             |
      | reset@3    | WORKER_RESET     | DISCONNECTED       |
      | cut@3      | WORKER_RESET     | TRUNCATED          |
      | not-json@3 | INTERNAL         | PROTOCOL           |
      | status:404 | INTERNAL         | UPSTREAM_NOT_FOUND |
      | loading    | POOL_UNREADY     | LOADING            |
      | overloaded | ADMISSION_REJECT | OVERLOADED         |

  @OC-ADAPT-5090 @ADAPT-3005 @kills:knows_no_deadline
  Scenario: openai-completions: deadlines
    Given a simulated "openai-completions" worker
    And its next answers meet "stall@2:forever"
    When a completion is asked for with a deadline of 0.3 seconds
    Then it failed as DEADLINE_UNMET for DEADLINE

  @OC-ADAPT-5090 @ADAPT-3003 @kills:loses_the_seed
  Scenario: openai-completions: determinism
    Given a simulated "openai-completions" worker that draws its words from the seed
    When a completion is asked for with seed 11
    And a completion is asked for with seed 11
    And a completion is asked for with seed 12
    Then the first two texts are the same, and the third is another one
    And the seeds that were sent and told are 11, 11 and 12

  @OC-ADAPT-5090 @ADAPT-3005 @kills:never_tries_again
  Scenario: openai-completions: retries under fault injection
    Given a simulated "openai-completions" worker
    And its next answers meet "loading ; status:503"
    When a completion is asked for
    Then the text is all that it said
    And the worker was asked 3 times, and the last was attempt 3
