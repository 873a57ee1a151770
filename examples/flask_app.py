from flask import Flask, Response, jsonify, request

from worker_adapters import GenerateRequest, WorkerError, begin_stream, connect, event_stream, http_refusal

app = Flask(__name__)
adapter = connect("vllm", "http://10.0.0.7:8000")


@app.errorhandler(WorkerError)
def refuse(why):
    status, headers, body = http_refusal(why, request.headers.get("X-Correlation-Id"))
    return jsonify(body), status, headers


@app.post("/v1/generate")
def generate():
    stream = adapter.submit(GenerateRequest.from_json(request.get_data()))
    return Response(begin_stream(event_stream(stream)), mimetype="text/event-stream")
