// Applies everything pending and follows it: `node apply.mjs 127.0.0.1:50051 PROTO_FOLDER`. Needs @grpc/grpc-js and @grpc/proto-loader,
// which brings protobufjs; the folder is the one that holds schemad/v1. docs/clients.md says what is repeated, and as which request.

import { randomUUID } from "node:crypto";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const TRIES = 20;
const PAUSE_MS = 1000;
const AGAIN = new Set([undefined, "BUSY", "SHUTTING_DOWN", "DATABASE_UNAVAILABLE", "LEDGER_LOCKED"]);

const [address, protos] = process.argv.slice(2);
const options = { includeDirs: [protos], keepCase: false, longs: String, enums: String, oneofs: true };
const { schemad } = grpc.loadPackageDefinition(loader.loadSync("schemad/v1/migration.proto", options));
const client = new schemad.v1.MigrationService(address, grpc.credentials.createInsecure());

// What grpc-js leaves undecoded, from google/rpc/status.proto and error_details.proto.
const { root } = protobuf.parse(`syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }`);
const [Status, ErrorInfo] = ["Status", "ErrorInfo"].map((name) => root.lookupType(name));

// schemad's own reason and its metadata; nothing where a proxy answered, or nobody.
function reason(error) {
  const [details] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const infos = details ? Status.decode(details).details.filter((any) => any.typeUrl.endsWith("google.rpc.ErrorInfo")) : [];
  const info = infos.map((any) => ErrorInfo.decode(any.value)).find(({ domain }) => domain === "schemad");
  return { name: info?.reason, metadata: info?.metadata ?? {} };
}

function once(request) {
  return new Promise((resolve, reject) => {
    let finished = false;
    const call = client.apply(request);
    call.on("data", ({ event }) => {
      if (event.event === "stepDone") console.log(`applied ${event.stepDone.name}`);
      if (event.event !== "finished") return;
      console.log(`version ${event.finished.currentVersion}`);
      finished = true;
    });
    call.on("error", reject);
    call.on("status", ({ code }) => code === grpc.status.OK && resolve(finished));
  });
}

async function apply() {
  const request = { requestId: randomUUID() };
  for (let n = 0; n < TRIES; n += 1) {
    try {
      // A stream that ends early says nothing.
      if (await once(request)) return 0;
    } catch (error) {
      const { name, metadata } = reason(error);
      // The result of the operation: it was interrupted, so it is asked for anew, as another request.
      if (name === "INTERRUPTED" && metadata.operation) request.requestId = randomUUID();
      // Nothing was begun, or nothing is known: the same request again is the same operation.
      else if (!AGAIN.has(name) && error.code !== grpc.status.RESOURCE_EXHAUSTED) {
        console.error(`${name}: ${error.details}`);
        return 1;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  console.error("no result in time");
  return 1;
}

process.exit(await apply());
