// A controller for one host, written from docs/controller.md and docs/asyncapi.yaml alone.

import { readFileSync } from "node:fs";
import { decode, encode } from "@msgpack/msgpack";
import { connect, headers as makeHeaders, nkeyAuthenticator } from "@nats-io/transport-node";
import { digest } from "./digest.mjs";
import { checked, checkedHeaders, example, roles, subject } from "./reference.mjs";
import { Signer } from "./signing.mjs";

const DIFFERENT_CONFIGURATION = 10058;
const text = new TextDecoder();

export class Controller {
  /** Connect as the controller: an address such as tls://127.0.0.1:4222, and the files of the CA and the nkey seed. */
  static async connect({ server, authority, seed, host }) {
    const key = readFileSync(seed);
    const connection = await connect({
      servers: server,
      tls: { caFile: authority, handshakeFirst: true },
      authenticator: nkeyAuthenticator(key),
      inboxPrefix: roles.controller.inbox_prefix,
    });
    return new Controller(connection, host, new Signer(key));
  }

  constructor(connection, host, signer) {
    this.connection = connection;
    this.signer = signer;
    this.host = host;
    this.published = new Map(); // document -> newest revision, of those that should exist
    this.answers = new Map(); // document -> newest acknowledgement
    this.waiting = new Set(); // functions to call when an acknowledgement arrives
  }

  async close() {
    await this.connection.drain();
  }

  /** Make the streams and the host's consumer, and listen for acknowledgements. */
  async prepare() {
    for (const kind of ["config", "ack"]) {
      const stream = example(`request: ${kind} stream`);
      const reply = await this.api(`STREAM.CREATE.${stream.name}`, stream);
      if (reply.error?.err_code === DIFFERENT_CONFIGURATION) await this.mustApi(`STREAM.UPDATE.${stream.name}`, stream);
      else if (reply.error) throw new Error(reply.error.description);
    }
    await this.makeConsumer();
    this.connection.subscribe(this.#ack("*").replace("*", ">"), { callback: (_, message) => this.#answered(message) });
    for (const { subject, body } of await this.stored("DROPLET_ACK", this.#ack(">"))) this.#answered({ subject, data: body });
  }

  async makeConsumer() {
    const consumer = example("request: consumer", { host: this.host });
    const { name, filter_subject } = consumer.config;
    await this.mustApi(`CONSUMER.CREATE.${consumer.stream_name}.${name}.${filter_subject}`, consumer);
  }

  /** Have the host read everything anew. */
  async replaceConsumer() {
    await this.mustApi(`CONSUMER.DELETE.DROPLET_CONFIG.${this.host}`, {});
    await this.makeConsumer();
  }

  async api(verb, request) {
    const reply = await this.connection.request(`$JS.API.${verb}`, JSON.stringify(request), { timeout: 5000 });
    return reply.json();
  }

  async mustApi(verb, request) {
    const reply = await this.api(verb, request);
    if (reply.error) throw new Error(`${verb}: ${reply.error.description}`);
    return reply;
  }

  /** Publish a document's objects and return the revision. */
  async publish(document, objects, fence = {}) {
    const body = encode(checked("Document", objects));
    const revision = await this.#send(document, body, { ...this.#signed(document, body), ...fence });
    this.published.set(document, revision);
    return revision;
  }

  /** Publish a document unless its newest revision is another one than `expected`. */
  async publishAfter(document, objects, expected) {
    return this.publish(document, objects, { "Nats-Expected-Last-Subject-Sequence": String(expected) });
  }

  /** Publish a document unless the newest revision of all of the host's documents is another one than `expected`. */
  async publishAfterAll(document, objects, expected) {
    return this.publish(document, objects, {
      "Nats-Expected-Last-Subject-Sequence": String(expected),
      "Nats-Expected-Last-Subject-Sequence-Subject": subject("config", { host: this.host, document: ">" }),
    });
  }

  /** Publish a document that nobody signed. */
  async publishUnsigned(document, objects) {
    return this.#send(document, encode(objects), example("headers: document", { host: this.host, document }));
  }

  /** Publish an empty body as if it were a document. */
  async publishNothing(document) {
    const body = new Uint8Array();
    return this.#send(document, body, this.#signed(document, body));
  }

  /** Remove a document and return the revision of its removal. */
  async remove(document) {
    const body = new Uint8Array();
    const fields = { ...example("headers: removal"), ...this.#signed(document, body, { removes: true }) };
    const revision = await this.#send(document, body, checkedHeaders("Removal", fields));
    this.published.delete(document);
    return revision;
  }

  /** Lose a document as a mistake would: without removing it. */
  async purge(document) {
    this.published.delete(document);
    return this.mustApi("STREAM.PURGE.DROPLET_CONFIG", { filter: subject("config", { host: this.host, document }) });
  }

  #signed(document, body, { removes = false } = {}) {
    const named = example("headers: document", { host: this.host, document });
    return { ...named, ...this.signer.headers(named["Droplet-Subject"], body, { removes }) };
  }

  async #send(document, body, fields) {
    const headers = makeHeaders();
    for (const [name, value] of Object.entries(checkedHeaders("Document", fields))) headers.set(name, value);
    const to = subject("config", { host: this.host, document });
    const reply = (await this.connection.request(to, body, { headers, timeout: 5000 })).json();
    if (reply.error) throw new Error(`${reply.error.err_code} ${reply.error.description}`);
    return reply.seq;
  }

  #ack(document) {
    return subject("ack", { host: this.host, document });
  }

  #answered(message) {
    const answer = checked("Acknowledgement", decode(message.data));
    this.answers.set(answer.document, answer);
    for (const wake of this.waiting) wake();
  }

  /** Wait until a revision, or one that superseded it, is in one of some states; return the acknowledgement. */
  async answer(document, revision, states = ["realized"], seconds = 30) {
    const deadline = Date.now() + seconds * 1000;
    for (;;) {
      const newest = this.answers.get(document);
      if (newest && newest.revision >= revision && !newest.absent && states.includes(newest.state)) return newest;
      if (Date.now() > deadline) throw new Error(`no answer for ${document} ${revision} but ${JSON.stringify(newest)}`);
      await this.#news();
    }
  }

  /** Wait until a host says that the stream does not hold a document that it has. */
  async absent(document) {
    while (!this.answers.get(document)?.absent) await this.#news();
    return this.answers.get(document);
  }

  /** Wait for an acknowledgement of any document, or a second. */
  #news() {
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        this.waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, 1000);
      this.waiting.add(wake);
    });
  }

  /** What a stream holds under a filter, by direct get in pages. */
  async stored(stream, filter) {
    const found = [];
    for (let start = 1; ; ) {
      const page = await this.#page(stream, { batch: 1000, seq: start, next_by_subj: filter });
      found.push(...page.messages);
      if (page.left === 0) return found;
      start = found.at(-1).sequence + 1;
    }
  }

  async #page(stream, request) {
    const inbox = `${roles.controller.inbox_prefix}.${Math.random().toString(36).slice(2)}`;
    const replies = this.connection.subscribe(inbox);
    this.connection.publish(`$JS.API.DIRECT.GET.${stream}`, JSON.stringify(request), { reply: inbox });
    const messages = [];
    for await (const { headers, data } of replies) {
      if (headers.code === 404) return { messages, left: 0 };
      if (headers.code === 204) return { messages, left: Number(headers.get("Nats-Num-Pending")) };
      messages.push({
        subject: headers.get("Nats-Subject"),
        sequence: Number(headers.get("Nats-Sequence")),
        removal: headers.get("KV-Operation") !== "",
        body: data,
      });
    }
    throw new Error("the connection was closed");
  }

  /** Remove the acknowledgement of a document that was removed. */
  async forget(document) {
    const [seen] = await this.stored("DROPLET_ACK", this.#ack(document));
    const words = { host: this.host, document };
    const request = { ...example("request: purge acknowledgement", words), seq: seen.sequence + 1 };
    const { purged } = await this.mustApi("STREAM.PURGE.DROPLET_ACK", request);
    this.answers.delete(document);
    return purged;
  }

  /** Ask the host; an error of its own is returned as {error, code}. */
  async ask(method, request = undefined) {
    const body = request === undefined ? new Uint8Array() : encode(request);
    const reply = await this.connection.request(subject("rpc_status", { host: this.host }).replace(/status$/, method), body);
    const error = reply.headers?.get("Nats-Service-Error");
    if (!error) return checked(REPLIES[method], decode(reply.data));
    const code = reply.headers.get("Nats-Service-Error-Code");
    checkedHeaders("Error", { "Nats-Service-Error": error, "Nats-Service-Error-Code": code });
    return { error, code };
  }

  /** What the host says of itself as a micro-service. */
  async discover(verb) {
    const reply = await this.connection.request(subject(`srv_${verb.toLowerCase()}`), "");
    return checked(`Service${verb[0]}${verb.slice(1).toLowerCase()}`, JSON.parse(text.decode(reply.data)));
  }

  /** The next message on a channel of what hosts say unasked. */
  async hear(channel, message) {
    for await (const { data } of this.connection.subscribe(subject(channel, { host: this.host }), { max: 1 })) {
      return checked(message, decode(data));
    }
  }

  /** The digest that the host should have. */
  digest() {
    return digest(this.published);
  }
}

const REPLIES = {
  status: "Status",
  get: "GetReply",
  documents: "DocumentsReply",
  counters: "Counters",
  path: "PathReply",
  peers: "PeersReply",
  plan: "PlanReply",
  sweep: "SweepReply",
};
