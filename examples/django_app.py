from django.http import JsonResponse, StreamingHttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from worker_adapters import GenerateRequest, WorkerError, begin_stream, connect, event_stream, http_refusal

adapter = connect("vllm", "http://10.0.0.7:8000")


@csrf_exempt
def generate(request):
    try:
        stream = adapter.submit(GenerateRequest.from_json(request.body))
        return StreamingHttpResponse(begin_stream(event_stream(stream)), content_type="text/event-stream")
    except WorkerError as why:
        status, headers, body = http_refusal(why, request.headers.get("X-Correlation-Id"))
        return JsonResponse(body, status=status, headers=headers)


urlpatterns = [path("v1/generate", generate)]
