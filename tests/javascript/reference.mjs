// What a controller's author has: docs/controller.md, docs/asyncapi.yaml and docs/permissions.json, read as they stand.

import { readFileSync } from "node:fs";
import Ajv from "ajv";

const docs = new URL("../../docs/", import.meta.url);
const read = (name) => readFileSync(new URL(name, docs), "utf8");

const page = read("controller.md");
const asyncapi = JSON.parse(read("asyncapi.yaml")); // JSON is YAML
export const roles = JSON.parse(read("permissions.json")).roles;

const fill = (text, words) => Object.entries(words).reduce((done, [name, word]) => done.replaceAll(`{${name}}`, word), text);

/** The JSON block of docs/controller.md below `<!-- NAME -->`, with placeholders such as {host} replaced. */
export function example(name, words = {}) {
  const found = page.match(new RegExp(`<!-- ${name} -->\\s+\`\`\`json\\n(.*?)\`\`\``, "s"));
  if (!found) throw new Error(`docs/controller.md has no example "${name}"`);
  return JSON.parse(fill(found[1], words));
}

/** The subject of a channel of docs/asyncapi.yaml. */
export function subject(channel, words = {}) {
  return fill(asyncapi.channels[channel].address, words);
}

const ajv = new Ajv({ strict: false, validateFormats: false });
ajv.addSchema({ $id: "asyncapi", components: asyncapi.components });

/** Returns a value that is as docs/asyncapi.yaml describes a message's payload; throws when it is not. */
export function checked(message, value) {
  const place = `asyncapi#/components/messages/${message}/payload/schema`;
  const { schema } = asyncapi.components.messages[message].payload;
  const validate = ajv.getSchema(place) ?? ajv.compile({ $id: `asyncapi:${message}`, ...absolute(schema) });
  if (!validate(value)) {
    throw new Error(`${message} is not as docs/asyncapi.yaml says: ${ajv.errorsText(validate.errors)}`);
  }
  return value;
}

const absolute = (schema) => (schema.$ref ? { $ref: `asyncapi${schema.$ref}` } : schema);

/** The headers that docs/asyncapi.yaml lists for a message, checked likewise. */
export function checkedHeaders(message, value) {
  const validate = ajv.compile(asyncapi.components.messages[message].headers);
  if (!validate(value)) {
    throw new Error(`headers of ${message} are not as described: ${ajv.errorsText(validate.errors)}`);
  }
  return value;
}
