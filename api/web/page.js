// The page at "/": the key, and an address for every question and page.
// All of it stands in the fragment, which browsers send to nobody: no log and no referrer has it.
// `#q=QUESTION&collection=NAME&documents=IDS`, or a page: `#document=ID&page=N&highlight=BOXES`.

const search = document.querySelector("pageglass-search");
const form = document.querySelector("#unlock");
const field = document.querySelector("#key");
let asked = ""; // The fragment of the question whose answer is shown.
let restoring = false;
let viewing = false;

const fragmentOf = ({ question, collection, documents }) => `#${new URLSearchParams({
  q: question, ...(collection && { collection }),
  ...(documents.length && { documents: documents.join() }) })}`;

function questionIn(fragment) {
  const at = new URLSearchParams(fragment.slice(1));
  return { question: (at.get("q") || "").trim(), collection: at.get("collection") || "",
    documents: (at.get("documents") || "").split(",").filter(Boolean) };
}

const pageIn = (fragment) => {
  const at = new URLSearchParams(fragment.slice(1));
  return at.get("document") && { id: at.get("document"), page: at.get("page"),
    highlight: at.get("highlight") || "" };
};

/** Show what the address names; an answer that is there already is kept. */
function restore() {
  const page = pageIn(location.hash);
  // While a page is open the address is the page's; its question is kept beside it.
  const wanted = questionIn(page ? history.state?.asked || "" : location.hash);
  restoring = true;
  if (wanted.question && fragmentOf(wanted) !== asked) {
    search.collection = wanted.collection;
    search.documents = wanted.documents;
    search.ask(wanted.question);
  }
  if (page) search.openPage(page.id, page.page, { highlight: page.highlight });
  else search.closePage();
  restoring = false;
}

search.addEventListener("pageglass-ask", ({ detail }) => {
  const fragment = fragmentOf(detail);
  if (!restoring && fragment !== location.hash) history.pushState({ asked: fragment }, "", fragment);
  asked = fragment;
});
search.addEventListener("pageglass-open", ({ detail }) => {
  const { hash } = new URL(detail.link);
  // One step back closes the viewer, however many pages were turned.
  if (viewing || restoring) history.replaceState(history.state, "", hash);
  else history.pushState({ asked, opened: true }, "", hash);
  viewing = true;
});
search.addEventListener("pageglass-close", () => {
  viewing = false;
  if (!pageIn(location.hash)) return; // That step back was what closed it.
  if (history.state?.opened) history.back();
  else history.replaceState({ asked }, "", asked || location.pathname + location.search);
});
addEventListener("popstate", restore);

/** The key kept for this tab only, never in an address; where nothing can be kept, "". */
function kept(key) {
  try {
    if (key != null) sessionStorage.setItem("pageglass-key", key);
    return sessionStorage.getItem("pageglass-key") || "";
  } catch {
    return "";
  }
}

function unlock(key) {
  search.key = key;
  restore();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  kept(field.value);
  asked = ""; // What is shown may not be the new key's to see.
  unlock(field.value);
});

const version = await fetch("version").then((response) => response.json()).catch(() => ({}));
form.hidden = !version.needs_key;
field.value = version.needs_key ? kept() : "";
if (field.value || !version.needs_key) unlock(field.value);
