// A small client in TypeScript. It compiles against both OpenAPI documents without a cast, and that is its point: the compiler
// knows each outcome and each problem. `npm test` generates the types and checks it.

import createClient from "openapi-fetch";
import type { components, paths as MemberPaths } from "./generated/members.js";
import type { paths as AdminPaths } from "./generated/admins.js";

type CommandStatus = components["schemas"]["CommandStatus"];
type Problem = components["schemas"]["Problem"];

const url = "http://localhost:8080";
const members = createClient<MemberPaths>({ baseUrl: `${url}/api/v1` });
const admins = createClient<AdminPaths>({ baseUrl: `${url}/admin/v1` });

/** Fails to compile if a case was forgotten. */
function never(value: never): never {
  throw new Error(`unknown: ${JSON.stringify(value)}`);
}

/** What a person reads about a command. `status` and `kind` tell which outcome it has. */
export function told(status: CommandStatus): string {
  switch (status.status) {
    case "accepted":
      return `${status.kind ?? "It"} is waiting for its decision`;
    case "refused":
      return refused(status.problem.code, status.problem.title, status.problem.verdict);
    case "failed":
      return `An operator is needed: ${status.problem?.detail ?? "no details"}`;
    case "succeeded":
      break;
    default:
      return never(status);
  }
  switch (status.kind) {
    case "register":
    case "withdraw":
    case "add-registration":
    case "remove-registration":
    case "change-answers":
    case "move-in-waiting-list":
      return `${status.outcome.state}, place ${status.outcome.place ?? "none"}`;
    case "check-in":
    case "undo-check-in":
      return status.outcome.repeated ? "As before" : `Here since ${status.outcome.checked_in_at ?? "never"}`;
    case "check-eligibility":
      return status.outcome.eligible ? "You may come" : failing(status.outcome);
    case "import-members":
      return `${status.outcome.imported} new, ${status.outcome.rejected_count} rejected`;
    case "update-profile":
    case "edit-member":
      return `The profile of ${status.outcome.member_id} is changed`;
    case "clean-up":
      return `${status.outcome.files} files deleted`;
    default:
      return `The drive is ${status.outcome.status}`;
  }
}

type Verdict = components["schemas"]["Verdict"];

function failing(verdict: Verdict): string {
  return verdict.rules.filter((rule) => !rule.passed).map((rule) => rule.message).join("; ");
}

function refused(code: Problem["code"], title: string, verdict?: Verdict): string {
  return code === "not-eligible" && verdict !== undefined ? failing(verdict) : title;
}

/** Registers, and waits for the decision. The answer is typed by its HTTP status. */
export async function register(token: string, drive_id: string, slot_id?: string): Promise<string> {
  const { data, error } = await members.POST("/drives/{drive_id}/registrations", {
    params: { path: { drive_id }, header: { Prefer: "wait=10", "Idempotency-Key": crypto.randomUUID() } },
    body: { slot_id: slot_id ?? null, answers: { shirt_size: "M" } },
    headers: { Authorization: `Bearer ${token}` },
  });
  if (error !== undefined) {
    switch (error.code) {
      case "drive-full":
        return "All places are taken";
      case "not-eligible":
        return error.verdict === undefined ? error.title : failing(error.verdict);
      case "answers-invalid":
        return (error.errors ?? []).map((fault) => `${fault.field}: ${fault.detail}`).join("; ");
      default:
        return error.title;
    }
  }
  // 202 has a receipt, 200 the outcome.
  return data.status === "accepted" ? `Accepted: ${data.receipt}` : `You are ${data.outcome.state}`;
}

/** Makes a drive and publishes it. */
export async function announce(token: string): Promise<string> {
  const headers = { Authorization: `Bearer ${token}` };
  const header = { Prefer: "wait=10" };
  const created = await admins.POST("/drives", {
    params: { header },
    headers,
    body: {
      title: "Blood donation, Pune",
      kind: "donation",
      time_zone: "Asia/Kolkata",
      opens_at: "2026-12-01T09:00",
      closes_at: "2027-01-09T18:00",
      capacity: 100,
    },
  });
  if (created.error !== undefined) return created.error.title;
  const drive_id = created.data.drive_id;
  if (drive_id === undefined) return "A drive has an id";
  const path = { drive_id };
  // Null takes the venue's end away; what is absent stays.
  await admins.PATCH("/drives/{drive_id}", { params: { path, header }, headers, body: { ends_at: null } });
  const published = await admins.POST("/drives/{drive_id}/publish", { params: { path, header }, headers, body: {} });
  if (published.error !== undefined) return published.error.title;
  return published.data.status === "succeeded" ? published.data.outcome.status : published.data.receipt;
}

/** Every list has the same shape. */
export async function titles(): Promise<string[]> {
  const all: string[] = [];
  let cursor: string | null = null;
  do {
    const query: { status: "open"; limit: number; cursor?: string } = { status: "open", limit: 200 };
    if (cursor !== null) query.cursor = cursor;
    const page: { data?: components["schemas"]["DrivePage"]; error?: Problem } = await members.GET("/drives", {
      params: { query },
    });
    if (page.data === undefined) throw new Error(page.error?.title ?? "no answer");
    all.push(...page.data.items.map((drive) => drive.title));
    cursor = page.data.next_cursor;
  } while (cursor !== null);
  return all;
}
