// The page at "/": the key, and links that open exactly one page of a document.

const search = document.querySelector("pageglass-search");
const form = document.querySelector("#unlock");
const field = document.querySelector("#key");

/** Open what the address names: `#document=ID&page=N&highlight=BOXES`. */
function openLinked() {
  const at = new URLSearchParams(location.hash.slice(1));
  if (!at.get("document")) return;
  search.openPage(at.get("document"), at.get("page"), { highlight: at.get("highlight") || "" });
}

function unlock(key) {
  search.key = key;
  openLinked();
}

// The address follows what is looked at, so that a reload or a copy of it shows the same.
search.addEventListener("pageglass-open", ({ detail }) => {
  history.replaceState(null, "", new URL(detail.link).hash);
});
search.addEventListener("pageglass-close", () => {
  history.replaceState(null, "", location.pathname + location.search);
});
addEventListener("hashchange", openLinked);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  // For this tab only, and never in an address.
  sessionStorage.setItem("pageglass-key", field.value);
  unlock(field.value);
});

const version = await fetch("version").then((response) => response.json(), () => ({}));
form.hidden = !version.needs_key;
const kept = version.needs_key ? sessionStorage.getItem("pageglass-key") : null;
field.value = kept || "";
if (kept || !version.needs_key) unlock(kept || "");
