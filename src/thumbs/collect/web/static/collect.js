// The annotator's page.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const work = $("#work");
const setup = JSON.parse($("#setup").textContent);
const { words, project } = setup;
const url = `/api/projects/${project}`;
const html = window.trustedTypes?.createPolicy("collect", { createHTML: (text) => text }) ?? { createHTML: (text) => text };

let form; // the task on the page; null: there is none
let kind; // what a task other than a pair does: a promise
let busy, input; // while an answer is sent; what the person used last
let past = [], looking = -1; // own answers, newest first; the one looked at

// What outlives the page, where the browser lets it
const storage = (action) => { try { return action(localStorage); } catch { return null; } };
const kept = {
  get: (key) => storage((all) => JSON.parse(all.getItem(`collect:${key}`))),
  set: (key, value) => storage((all) => all.setItem(`collect:${key}`, JSON.stringify(value))),
  drop: (key) => storage((all) => all.removeItem(`collect:${key}`)),
};

// Time seen and touched: pauses count for 30 s at most.
const time = {};
function touched() {
  const now = performance.now();
  if (time.seen) time.active += Math.min(now - time.last, 30000);
  Object.assign(time, { last: now, seen: !document.hidden });
}
for (const name of ["keydown", "pointerdown", "pointermove", "wheel", "touchmove"]) addEventListener(name, touched, { passive: true });
document.addEventListener("visibilitychange", touched);
addEventListener("pointerdown", (event) => { input = event.pointerType === "touch" ? "touch" : "pointer"; });

const spent = () => kept.get(`spent:${project}`) ?? 0;

function say(text) { $("#status").textContent = text; }
function notice(...parts) { $("#notice").replaceChildren(...parts); }
function made(tag, text, more) { return Object.assign(document.createElement(tag), { textContent: text }, more); }
function button(text, action) { return made("button", text, { onclick: () => { notice(); action?.(); } }); }
function loggedOut() {
  notice(words.logged_out, setup.local ? "" : made("a", words.login, { href: `${setup.root}/login?next=/p/${project}`, target: "_blank" }));
}

async function call(method, address, body, headers, limit = 30000) {
  const reply = await fetch(setup.root + address, {
    method,
    headers: { "X-CSRF-Token": setup.csrf, "Content-Type": "application/json", ...headers },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(limit),
  });
  return { ok: reply.ok, status: reply.status, wait: reply.headers.get("Retry-After") * 1000, result: await reply.json() };
}
async function ask(method, address, body, limit) {
  try {
    const { ok, status, result } = await call(method, address, body, {}, limit);
    notice(ok || status === 401 ? "" : result.detail);
    if (status === 401) loggedOut();
    return ok ? result : null;
  } catch { notice(words.offline); }
}
async function renew() { // takes the session's new token, if the same person is logged in (again)
  try {
    const { ok, result } = await call("GET", "/api/session");
    if (ok && result.account === setup.account) setup.csrf = result.csrf;
  } catch { /* no connection: tried again */ }
}

// The outbox: an answer is kept before it is sent, and dropped when the server has it.
async function deliver(entry) {
  kept.set(`out:${entry.id}`, entry);
  for (let pause = 1000, forbidden = 0; ; pause = Math.min(pause * 2, 30000)) {
    const { ok, status, wait, result } = await call(entry.method, entry.url, entry.body, entry.headers).catch(() => ({}));
    const expired = status === 401 || (status === 403 && !forbidden++);
    if (ok || (status < 500 && !expired && status !== 408 && status !== 429)) {
      kept.drop(`out:${entry.id}`);
      if (ok || status === 409 || status === 412) kept.drop(`draft:${entry.id}`);
      notice();
      if (!ok) refused(entry, status, result);
      return ok ? result : null;
    }
    if (status === 401) loggedOut(); else notice(words.waiting);
    say("");
    await later(Math.max(pause, wait || 0));
    if (expired) await renew();
  }
}
function later(ms) { // or sooner, when the network or the person comes back
  return new Promise((done) => {
    setTimeout(done, ms);
    for (const name of ["online", "focus"]) addEventListener(name, done, { once: true });
  });
}
function refused({ id, body: { answer } }, status, { detail }) {
  if (status === 409 || status === 412) return notice(words.conflict, button(words.look, () => look(id)), button(words.next, next));
  const text = [answer.text, answer.reason].filter(Boolean).join("\n\n") || JSON.stringify(answer);
  notice(`${words.refused} ${detail}`, made("pre", text), button(words.dismiss));
}
async function resend() {
  for (const key of storage(Object.keys) ?? []) {
    const entry = key.startsWith("collect:out:") && kept.get(key.slice(8));
    if (entry?.account !== setup.account || entry.project !== project) continue;
    const isHere = form?.dataset.id === entry.id;
    if (isHere) { fill(entry.body.answer); sending(true); }
    const result = await deliver(entry);
    if (isHere) sending(false);
    if (isHere && result) show(result.next);
    if (result) say(words.sent);
  }
}

// Answers, as the server takes them: replies in the order shown
function answerOf() {
  const answer = form.dataset.verdict ? { verdict: form.dataset.verdict } : {};
  const row = (name, make) => (answer[name] ??= $$(".reply", form).map(make));
  for (const [name, value] of new FormData(form)) {
    const [what, place, axis] = name.split(".");
    if (what === "verdict") Object.assign(answer, isNaN(value) ? { verdict: value } : { verdict: "prefer", strength: +value });
    else if (what === "axis") (answer.axes ??= {})[place] = +value;
    else if (what === "rank") row("ranks", () => 0)[place] = +value;
    else if (what === "rating") row("ratings", () => ({}))[place][axis] = +value;
    else if (what === "flag") row("flags", () => [])[place].push(value);
    else if (value.trim()) answer[what] = value.replace(/\r\n/g, "\n");
  }
  return answer;
}
function fill({ verdict, strength, axes, ranks, ratings, flags, ...texts }) {
  const put = (name, value) => {
    for (const field of $$(`[name="${name}"]`, form)) {
      if (/radio|checkbox/.test(field.type)) field.checked ||= field.value === `${value}`;
      else field.value = value || "";
    }
  };
  const each = (values, action) => Object.entries(values ?? {}).forEach(([key, value]) => action(key, value));
  put("verdict", strength || verdict);
  each(axes, (key, value) => put(`axis.${key}`, value));
  each(ranks, (place, value) => put(`rank.${place}`, value));
  each(ratings, (place, row) => each(row, (key, value) => put(`rating.${place}.${key}`, value)));
  each(flags, (place, names) => names.forEach((name) => put(`flag.${place}`, name)));
  each(texts, put);
  if (texts.text && $(".better", form)) $(".better", form).open = true;
  changed();
}
function isBlocked() {
  const missing = $$("[data-needed]", form).find((field) => field.value === undefined
    ? !$(":checked", field)
    : !field.value.trim() || !field.validity.valid || (field.value === field.defaultValue && field.name === "text"));
  $("#why").textContent = missing?.dataset.needed ?? "";
  (missing && ($("input", missing) ?? missing))?.focus();
  return missing;
}
function changed() {
  $("#why").textContent = "";
  kind?.then((own) => own.changed?.(form));
}
function sending(is) {
  busy = is;
  form?.setAttribute("aria-busy", is);
}

// Tasks
function show(part) { // {task} or {nothing, html}
  work.innerHTML = html.createHTML((part.task ?? part).html);
  opened();
  $("#heading").focus();
  scrollTo(0, 0);
}
function opened() {
  form = $("#task");
  busy = kind = null;
  const turn = $(".turn:last-child"), talk = turn?.parentNode;
  if (talk) talk.scrollTop = turn.offsetTop - talk.offsetTop; // what is answered
  Object.assign(time, { active: 0, last: performance.now(), start: performance.now(), seen: !document.hidden });
  CSS.highlights?.clear();
  $("#undo").hidden = true;
  const place = $("#progress");
  place.textContent = words.progress.replace("{n}", place.dataset.given).replace("{m}", Math.round(spent() / 60000));
  if (!form) return import(setup.kinds).then(({ poll }) => poll({ ask, say, show, words, url }));
  const { id, earlier, guideline, kind: name } = form.dataset;
  if (!/pair|chat|write/.test(name)) kind = import(setup.kinds).then((kinds) => kinds[name]);
  if (id) fill(kept.get(`draft:${id}`) ?? JSON.parse(earlier || "{}"));
  press("raw", document.body.classList.contains("raw-text"));
  if (guideline && kept.get(`guideline:${project}`) !== guideline) actions.guidelines();
}
async function go(...request) {
  const found = await ask(...request);
  if (found) show(found);
}
function look(id) { go("GET", `/api/assignments/${id}`); }
function next() {
  looking = -1;
  go("POST", `${url}/claim`, {});
}
async function submit(answer) {
  if (busy || !form || (!answer && isBlocked())) return;
  if (form.dataset.kind === "say") return (await kind).submit(form, { ask, sending, say, show, words, url });
  answer ??= answerOf();
  touched();
  const { id } = form.dataset;
  const revision = +form.dataset.revision;
  const quick = input === "key" && isQuick() && !revision;
  const key = [...crypto.getRandomValues(new Uint32Array(4))].join("-");
  sending(true);
  say(words.sending);
  const result = await deliver({
    id, project, account: setup.account,
    method: revision ? "POST" : "PUT",
    url: `/api/assignments/${id}/${revision ? "revisions" : "judgement"}`,
    headers: { "Idempotency-Key": key, ...(revision && { "If-Match": revision }) },
    body: { answer, active_ms: Math.round(time.active), wall_ms: Math.round(time.last - time.start), input },
  });
  sending(false);
  if (!result) return say("");
  if (!revision && answer.verdict !== "skip") $("#progress").dataset.given++;
  kept.set(`spent:${project}`, spent() + time.active);
  looking = -1;
  show(result.next);
  say(`${words.saved} ${new Date().toLocaleTimeString()}`);
  if (quick) $("#undo").hidden = false;
  setTimeout(() => { $("#undo").hidden = true; }, 6000);
}

// Keys and buttons; setup.keys says which letter does what
const isQuick = () => kept.get("quick") ?? setup.quick;
function press(name, is) { $(`[data-do=${name}]`, work)?.setAttribute("aria-pressed", is); }
async function mark(is) {
  CSS.highlights?.clear();
  const shown = document.body.classList.contains("raw-text") ? "raw" : "md";
  if (is) (await import(setup.differences)).mark($$(`.reply .scroll > .${shown}`, form));
  press("diff", is);
}
const actions = {
  tie: () => choose("tie"),
  both_bad: () => choose("both_bad"),
  skip: () => $("#skip")?.showModal(),
  raw: () => {
    press("raw", document.body.classList.toggle("raw-text"));
    if (CSS.highlights?.size) mark(true);
  },
  diff: () => $("[data-do=diff]", work) && mark(!CSS.highlights?.size),
  write: () => ($("[name=text]:not(details *)", form) ?? $("[name=reason]", form))?.focus(),
  help: () => sheet("help"),
  guidelines: () => sheet("guidelines"),
  ending: () => $("#ending").showModal(),
  end: async () => (await kind).end(form, { ask, show }),
  close: (from) => { // at once: Enter must not find a button that is gone
    from.closest("dialog").close();
    if (!document.activeElement.checkVisibility()) $("#heading").focus();
  },
  back: next,
  undo: async () => {
    if (looking < 0) past = (await ask("GET", `${url}/history`))?.history ?? [];
    if (past[looking + 1]) look(past[++looking].assignment);
    else say(words.none);
  },
};
async function sheet(name) {
  const found = await ask("GET", `${url}/${name}`);
  if (!found) return;
  $("#sheet div").innerHTML = html.createHTML(found.html);
  $("#sheet").showModal();
  if (found.version) kept.set(`guideline:${project}`, `${found.version}`);
  const is = { quick: isQuick(), letters: kept.get("letters") ?? true };
  for (const box of $$("#sheet input")) Object.assign(box, { checked: is[box.name], onchange: () => kept.set(box.name, box.checked) });
}
function choose(value) {
  const field = $(`[name=verdict][value="${value}"]`, form);
  if (!field || busy) return;
  field.checked = true;
  field.focus();
  draft();
  if (isQuick() && !+form.dataset.revision) submit();
}
async function number(n) {
  if (kind) (await kind).number(n, form);
  else if (n > 0 && n < 9) choose(n - (n < 5 ? 5 : 4));
  draft();
}
function draft() {
  if (form?.dataset.id) kept.set(`draft:${form.dataset.id}`, answerOf());
  if (form) changed();
}
function pressed({ target, key, code, ctrlKey, metaKey, altKey, isComposing, repeat }) { // false: not ours
  if (isComposing || repeat) return false;
  const dialog = $("dialog[open]");
  const isText = target.closest("textarea, input:not([type=radio], [type=checkbox])");
  if (key === "Enter" && (ctrlKey || metaKey) && !dialog) return submit();
  if (ctrlKey || metaKey || altKey) return false;
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(code)?.[1];
  if (dialog) return key === "Escape" ? actions.close(dialog) : digit ? $$("[data-skip]", dialog)[digit - 1]?.click() : false;
  if (key === "Escape") return isText ? $("#heading").focus() : +form?.dataset.revision ? next() : false;
  if (isText || (key === "Enter" && target.closest("button, a, summary"))) return false;
  if (key === "Enter") return submit();
  if (kept.get("letters") === false) return false;
  if (digit) return form ? number(+digit) : false;
  const name = setup.keys[key.length === 1 && key < "\u007f" ? key.toLowerCase() : code.slice(3).toLowerCase()];
  if (!name || !(form || /help|guidelines|undo/.test(name))) return false;
  actions[name]();
}
document.addEventListener("keydown", (event) => {
  input = "key";
  if (pressed(event) !== false) event.preventDefault();
});
document.addEventListener("click", ({ target }) => {
  const from = target.closest("[data-do], [data-skip]");
  const { do: action, skip } = from?.dataset ?? {};
  if (action) actions[action](from);
  if (skip) { actions.close(from); submit({ verdict: "skip", skip_reason: skip }); }
});
work.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
work.addEventListener("input", draft);
setInterval(() => { // the lease lasts while somebody looks
  const { id } = form?.dataset ?? {};
  if (id && performance.now() - time.last < 60000) call("POST", `/api/assignments/${id}/heartbeat`, {}).catch(() => {});
}, 60000);

opened();
resend();
