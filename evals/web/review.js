// Cases beside their pages. No markup is ever made of text.

const at = (id) => document.getElementById(id);
const fields = ["question", "answer", "quote", "pages", "document"];

let cases = [];
let documents = [];
let place = 0;
let page = 1;
let shown = 0;
let busy = false;
// What was typed and not decided on, by case.
const drafts = new Map();

async function ask(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail || `the server answered ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return response;
}

async function load() {
  const told = await (await ask("cases")).json();
  cases = told.cases;
  documents = told.documents;
  document.title = `${told.file} – review cases`;
  at("document").replaceChildren(...documents.map((one) => new Option(one.called, one.id)));
  const first = cases.findIndex((one) => one.state === "open");
  place = Math.max(first, 0);
  show();
}

function show() {
  const one = cases[place];
  const open = cases.filter((each) => each.state === "open").length;
  at("form").hidden = at("sheet").hidden = !one;
  at("done").hidden = Boolean(one && open);
  at("done").textContent = one
    ? "Every case is decided. You can close this page, or go back to change one."
    : "There are no cases here. `pageglass eval new` proposes some.";
  const nth = one ? `Case ${place + 1} of ${cases.length}, ` : "";
  at("progress").textContent = `${nth}${open} to decide`;
  if (!one) return;
  const draft = drafts.get(one.id) || {
    question: one.question,
    answer: one.answer || "",
    quote: one.quote,
    pages: one.pages.join(", "),
    document: one.document_id || "",
    answerable: one.answerable,
  };
  for (const name of fields) at(name).value = draft[name];
  at("answerable").checked = draft.answerable;
  at("answered").hidden = !draft.answerable;
  at("state").textContent = { open: "to decide", accepted: "accepted", rejected: "rejected" }[one.state];
  at("state").className = `state ${one.state}`;
  at("origin").textContent = { proposed: "proposed", logged: "from the log" }[one.origin] || one.origin;
  at("problem").textContent = one.document_id ? "" : `no document ${one.document}: choose one`;
  at("back").disabled = place === 0;
  at("on").disabled = place === cases.length - 1;
  page = numbers()[0] || 1;
  turn(page);
}

function written() {
  return at("pages").value.split(/[\s,;]+/).filter(Boolean);
}

function numbers() {
  return written().filter((part) => /^\d{1,9}$/.test(part)).map(Number);
}

// What is wrong with the gold pages as they are written; "" where nothing is.
function misread() {
  const odd = written().find((part) => !/^\d{1,9}$/.test(part));
  return odd === undefined ? "" : `${odd} is no page: write their numbers, with commas between`;
}

function keep() {
  const draft = { answerable: at("answerable").checked };
  for (const name of fields) draft[name] = at(name).value;
  drafts.set(cases[place].id, draft);
}

async function turn(to) {
  const chosen = documents.find((one) => one.id === at("document").value);
  const image = at("image");
  const turning = ++shown;
  at("mark").textContent = "";
  if (!chosen || !chosen.pages) {
    image.removeAttribute("src");
    at("page-name").textContent = "no document";
    return;
  }
  page = Math.min(Math.max(to, 1), chosen.pages);
  at("page-name").textContent = `${chosen.called}, page ${page} of ${chosen.pages}`;
  at("page-back").disabled = page === 1;
  at("page-on").disabled = page === chosen.pages;
  const gold = numbers().includes(page);
  at("gold").setAttribute("aria-pressed", String(gold));
  at("gold").hidden = !at("answerable").checked;
  const quote = at("answerable").checked ? at("quote").value.trim() : "";
  try {
    const query = new URLSearchParams({ quote });
    const response = await ask(`pages/${chosen.id}/${page}?${query}`);
    const blob = await response.blob();
    if (turning !== shown) return;
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    image.alt = `Page ${page} of ${chosen.called}`;
    const found = response.headers.get("X-Quote") === "found";
    at("mark").className = quote && !found ? "missing" : "";
    at("mark").textContent = !quote ? "" : found ? "The quote is marked." : "The quote does not stand on this page.";
  } catch (error) {
    if (turning !== shown) return;
    image.removeAttribute("src");
    at("mark").className = "missing";
    at("mark").textContent = error.message;
  }
}

function go(by) {
  const to = place + by;
  if (to < 0 || to >= cases.length) return;
  place = to;
  show();
}

// The case as it is in the files now; what was typed here is about one that is no more.
async function reload(one) {
  const told = await (await ask("cases")).json();
  const now = told.cases.find((each) => each.id === one.id);
  if (!now) return;
  cases[cases.indexOf(one)] = now;
  drafts.delete(one.id);
  show();
}

async function decide(state) {
  const one = cases[place];
  if (!one || busy) return;
  const answerable = at("answerable").checked;
  at("problem").textContent = state === "accepted" && answerable ? misread() : "";
  if (at("problem").textContent) return;
  busy = true;
  const body = {
    id: one.id,
    state,
    question: at("question").value,
    document: at("document").value,
    answerable,
    pages: answerable ? numbers() : [],
    answer: answerable ? at("answer").value : "",
    quote: answerable ? at("quote").value : "",
    version: one.version,
  };
  try {
    const response = await ask("decisions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    cases[place] = await response.json();
    drafts.delete(one.id);
    const order = [...cases.keys()].map((n) => (place + 1 + n) % cases.length);
    const next = order.find((n) => cases[n].state === "open");
    if (next !== undefined) place = next;
    // The next key is meant for the next case, not for the field that was edited last.
    document.activeElement?.blur();
    show();
  } catch (error) {
    if (error.status === 409) await reload(one).catch(() => {});
    at("problem").textContent = error.message;
  } finally {
    busy = false;
  }
}

function toggle() {
  if (at("gold").hidden) return;
  at("problem").textContent = misread();
  if (at("problem").textContent) return;
  const gold = new Set(numbers());
  if (!gold.delete(page)) gold.add(page);
  at("pages").value = [...gold].sort((a, b) => a - b).join(", ");
  keep();
  turn(page);
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  decide("accepted");
});
at("form").addEventListener("input", keep);
at("reject").addEventListener("click", () => decide("rejected"));
at("back").addEventListener("click", () => go(-1));
at("on").addEventListener("click", () => go(1));
at("page-back").addEventListener("click", () => turn(page - 1));
at("page-on").addEventListener("click", () => turn(page + 1));
at("gold").addEventListener("click", toggle);
at("quote").addEventListener("change", () => turn(page));
at("pages").addEventListener("change", () => turn(numbers()[0] || page));
at("document").addEventListener("change", () => turn(1));
at("answerable").addEventListener("change", () => {
  at("answered").hidden = !at("answerable").checked;
  turn(page);
});

const keys = {
  a: () => decide("accepted"),
  r: () => decide("rejected"),
  j: () => go(1),
  k: () => go(-1),
  g: toggle,
  e: () => at("question").focus(),
  ArrowLeft: () => turn(page - 1),
  ArrowRight: () => turn(page + 1),
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    decide("accepted");
    return;
  }
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
  if (event.key === "Escape" && typing) typing.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  // With Shift or Caps Lock a letter is the same key.
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
window.addEventListener("beforeunload", (event) => {
  if (drafts.size) event.preventDefault();
});

load().catch((error) => {
  at("progress").textContent = error.message;
});
