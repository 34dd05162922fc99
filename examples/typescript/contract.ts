// What must not compile: the documents would be too loose if it did.

import type { components } from "./generated/members.js";

declare const status: components["schemas"]["CommandStatus"];
declare const draft: components["schemas"]["RegistrationRequest"];

// @ts-expect-error There is an outcome only if the command was done.
status.outcome;

if (status.status === "succeeded" && status.kind === "register") {
  // @ts-expect-error The outcome of a registration has no number of imported people.
  status.outcome.imported;
  // @ts-expect-error There is no such state.
  status.outcome.state === "lost";
}

if (status.status === "refused") {
  // @ts-expect-error There is no such code.
  status.problem.code === "no-such-code";
}

// @ts-expect-error There is no such field.
draft.slot;
