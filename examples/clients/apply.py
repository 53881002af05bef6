"""Applies everything pending and follows it: `python apply.py 127.0.0.1:50051`. Needs grpcio, grpcio-reflection and googleapis-common-protos.

The messages come from the daemon's reflection, so there is nothing to generate. docs/clients.md says what is repeated, and as which request.
"""

import sys
import time
import uuid

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

TRIES = 20
PAUSE_S = 1.0
AGAIN = (None, "BUSY", "SHUTTING_DOWN", "DATABASE_UNAVAILABLE", "LEDGER_LOCKED")


def reason(error):
    """schemad's own reason and its metadata; (None, {}) where a proxy answered, or nobody."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "schemad":
                    return info.reason, dict(info.metadata)
    return None, {}


def method(channel):
    """Apply, and the class of its request, as the daemon's reflection has them."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    found = pool.FindServiceByName("schemad.v1.MigrationService").FindMethodByName("Apply")
    request_class, response_class = GetMessageClass(found.input_type), GetMessageClass(found.output_type)
    call = channel.unary_stream(
        "/schemad.v1.MigrationService/Apply", request_class.SerializeToString, response_class.FromString
    )
    return call, request_class


def apply(address):
    request_id = str(uuid.uuid4())
    with grpc.insecure_channel(address) as channel:
        for _ in range(TRIES):
            try:
                call, request_class = method(channel)
                finished = False
                for response in call(request_class(request_id=request_id)):
                    kind = response.event.WhichOneof("event")
                    if kind == "step_done":
                        print(f"applied {response.event.step_done.name}")
                    elif kind == "finished":
                        print(f"version {response.event.finished.current_version}")
                        finished = True
                # Without an error that is the result; a stream that ended early says nothing.
                if finished:
                    return 0
            except grpc.RpcError as error:
                why, metadata = reason(error)
                # The result of the operation: it was interrupted, so it is asked for anew, as another request.
                if why == "INTERRUPTED" and "operation" in metadata:
                    request_id = str(uuid.uuid4())
                # Nothing was begun, or nothing is known: the same request again is the same operation.
                elif why not in AGAIN and error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                    print(f"{why}: {error.details()}", file=sys.stderr)
                    return 1
            time.sleep(PAUSE_S)
        print("no result in time", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(apply(sys.argv[1]) if len(sys.argv) == 2 else "usage: apply.py HOST:PORT")
