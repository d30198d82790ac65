"""Calls grpc-go's interop server with Python's grpcio: every kind of call, status, metadata, deadline, cancellation.

The few messages that are used are described here, with the numbers of grpc/testing/messages.proto.
"""

import queue
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
KINDS = {"int32": FIELD.TYPE_INT32, "bytes": FIELD.TYPE_BYTES, "string": FIELD.TYPE_STRING}
MESSAGES = {
    "Empty": [],
    "Payload": [(2, "body", "bytes", False)],
    "EchoStatus": [(1, "code", "int32", False), (2, "message", "string", False)],
    "SimpleRequest": [(2, "response_size", "int32", False), (3, "payload", "Payload", False), (7, "response_status", "EchoStatus", False)],
    "SimpleResponse": [(1, "payload", "Payload", False)],
    "StreamingInputCallRequest": [(1, "payload", "Payload", False)],
    "StreamingInputCallResponse": [(1, "aggregated_payload_size", "int32", False)],
    "ResponseParameters": [(1, "size", "int32", False), (2, "interval_us", "int32", False)],
    "StreamingOutputCallRequest": [
        (2, "response_parameters", "ResponseParameters", True),
        (3, "payload", "Payload", False),
        (7, "response_status", "EchoStatus", False),
    ],
    "StreamingOutputCallResponse": [(1, "payload", "Payload", False)],
}


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="messages.proto", package="grpc.testing", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            added = message.field.add(name=field, number=number)
            added.label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            if kind in KINDS:
                added.type = KINDS[kind]
            else:
                added.type, added.type_name = FIELD.TYPE_MESSAGE, f".grpc.testing.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {name: message_factory.GetMessageClass(find(f"grpc.testing.{name}")) for name in MESSAGES}


M = messages()


class Service:
    def __init__(self, channel):
        self.unary = self.method(channel.unary_unary, "UnaryCall", "SimpleRequest", "SimpleResponse")
        self.empty = self.method(channel.unary_unary, "EmptyCall", "Empty", "Empty")
        self.missing = self.method(channel.unary_unary, "UnimplementedCall", "Empty", "Empty")
        self.upload = self.method(
            channel.stream_unary, "StreamingInputCall", "StreamingInputCallRequest", "StreamingInputCallResponse"
        )
        output = "StreamingOutputCallRequest", "StreamingOutputCallResponse"
        self.download = self.method(channel.unary_stream, "StreamingOutputCall", *output)
        self.duplex = self.method(channel.stream_stream, "FullDuplexCall", *output)

    @staticmethod
    def method(kind, name, request, response):
        return kind(
            f"/grpc.testing.TestService/{name}",
            request_serializer=M[request].SerializeToString,
            response_deserializer=M[response].FromString,
        )


def payload(size):
    return M["Payload"](body=bytes(size))


def output(*sizes, interval=0):
    parameters = [M["ResponseParameters"](size=size, interval_us=interval) for size in sizes]
    return M["StreamingOutputCallRequest"](response_parameters=parameters)


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def unary(service):
    service.empty(M["Empty"]())
    response = service.unary(M["SimpleRequest"](response_size=314159, payload=payload(271828)))
    assert len(response.payload.body) == 314159


def client_streaming(service):
    sizes = [27182, 8, 1828, 45904]
    response = service.upload(M["StreamingInputCallRequest"](payload=payload(size)) for size in sizes)
    assert response.aggregated_payload_size == sum(sizes)


def server_streaming(service):
    sizes = [31415, 9, 2653, 58979]
    assert [len(part.payload.body) for part in service.download(output(*sizes))] == sizes


def ping_pong(service):
    """Each message is sent only when the answer to the one before is there."""
    sizes, got, outgoing = [31415, 9, 2653, 58979], [], queue.Queue()
    call = service.duplex(iter(outgoing.get, None))
    for size in sizes:
        outgoing.put(output(size))
        got.append(len(next(call).payload.body))
    outgoing.put(None)
    assert list(call) == [] and got == sizes, got


def status(service):
    for code, message in [(2, "test status message"), (7, "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n")]:
        wanted = M["EchoStatus"](code=code, message=message)
        error = failure(lambda: service.unary(M["SimpleRequest"](response_status=wanted)))
        assert (error.code().value[0], error.details()) == (code, message), error
        request = M["StreamingOutputCallRequest"](response_status=wanted)
        error = failure(lambda: list(service.duplex(iter([request]))))
        assert (error.code().value[0], error.details()) == (code, message), error
    assert failure(lambda: service.missing(M["Empty"]())).code() == grpc.StatusCode.UNIMPLEMENTED


def metadata(service):
    sent = [("x-grpc-test-echo-initial", "test_initial_metadata_value"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab\x00\xff")]
    _, call = service.unary.with_call(M["SimpleRequest"](response_size=1), metadata=sent)
    assert sent[0] in [tuple(pair) for pair in call.initial_metadata()], call.initial_metadata()
    assert sent[1] in [tuple(pair) for pair in call.trailing_metadata()], call.trailing_metadata()


def deadline(service):
    slow = output(1, 1, interval=2_000_000)
    # Several times, as client and server run against each other.
    for _ in range(10):
        error = failure(lambda: list(service.download(slow, timeout=0.1)))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error


def cancel(service):
    call = service.download(output(1, 1, interval=5_000_000))
    call.cancel()
    error = failure(lambda: list(call))
    assert error.code() == grpc.StatusCode.CANCELLED, error
    call = service.download(output(*[10_000] * 1000))
    next(call)
    call.cancel()
    error = failure(lambda: list(call))
    assert error.code() == grpc.StatusCode.CANCELLED, error
    service.empty(M["Empty"]())


with grpc.insecure_channel(sys.argv[1], options=[("grpc.max_receive_message_length", 1 << 26)]) as channel:
    service = Service(channel)
    for case in [unary, client_streaming, server_streaming, ping_pong, status, metadata, deadline, cancel]:
        print(case.__name__, flush=True)
        case(service)
