// <pageglass-search>: ask a Pageglass server, and see the pages that answer (docs/embedding.md).
// Page text, names and questions are hostile: `make` alone makes nodes, and it knows no markup.

const STYLE = `
:host {
	color-scheme: light dark;
	--accent: var(--pageglass-accent, light-dark(#1d5c8a, #8cc4f2));
	--on-accent: var(--pageglass-on-accent, light-dark(#fff, #0c1a26));
	--background: var(--pageglass-background, light-dark(#faf9f6, #15181b));
	--surface: var(--pageglass-surface, light-dark(#fff, #1d2226));
	--text: var(--pageglass-text, light-dark(#1e2328, #e7e9eb));
	--muted: var(--pageglass-muted, light-dark(#5a636d, #a3adb7));
	--border: var(--pageglass-border, light-dark(#dedad0, #363e45));
	--mark: var(--pageglass-mark, light-dark(#fff2a8, #584a06));
	--good: light-dark(#1f6b45, #7fd0a4);
	--warn: light-dark(#8a5000, #f0bd6a);
	--bad: light-dark(#a3271f, #ff9f96);
	--tint: color-mix(in srgb, var(--accent) 9%, transparent);
	--radius: var(--pageglass-radius, 14px);
	--reading: var(--pageglass-reading-font, Charter, Georgia, "Noto Serif", serif);
	display: block; position: relative; container-type: inline-size; padding:
	var(--pageglass-padding, 20px); border-radius: var(--radius); background: var(--background); color: var(--text);
	font: 1rem/1.5 var(--pageglass-font, system-ui, sans-serif);
	text-align: start; overflow-wrap: anywhere; accent-color: var(--accent);
}
:host([hidden]), [hidden] { display: none !important }
:host([theme=light]) { color-scheme: light }
:host([theme=dark]) { color-scheme: dark }
*, :host { box-sizing: border-box }
h2, h3, p, ol, ul { margin: 0; padding: 0; list-style: none }
h2 { font: 600 1.75em/1.2 var(--reading); margin-block-end: .6em }
.status, .found { margin-block-start: 18px }
h3 { font-size: .9em; color: var(--muted) }
button, input, select, textarea { font: inherit; color: inherit; background: none; margin: 0;
	border: 1px solid transparent; border-radius: 9px }
button, select, label, summary { cursor: pointer }
button:disabled { opacity: .45; cursor: default }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
svg { width: 1.15em; height: 1.15em; flex: none; fill: none; stroke: currentColor;
	stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round; color: var(--muted) }
.sr { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
.small { font-size: .86em; color: var(--muted) }
.ask { display: flex; align-items: center; gap: 8px; padding: 7px 7px 7px 16px;
	background: var(--surface); border: 1px solid var(--border); border-radius: var(--radius);
	box-shadow: 0 4px 20px #0000000f }
.ask:focus-within { outline: 2px solid var(--accent) }
textarea { flex: 1; min-width: 0; max-height: 9em; padding: 8px 2px; font-size: 1.08em; resize: none;
	field-sizing: content }
textarea:focus { outline: none }
::placeholder { color: var(--muted) }
.ask button { padding: 8px 18px; align-self: end }
.row { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin-block-start: 10px }
.chip { display: inline-flex; align-items: center; gap: 7px; max-width: 100%; min-height: 36px;
	padding: 5px 12px; border: 1px solid var(--border); border-radius: 99px; font-size: .9em;
	background: var(--surface) }
.chip:hover, .tool:hover { border-color: var(--accent) }
[aria-pressed=true], .on { border-color: var(--accent); color: var(--accent) }
select { background: var(--surface); border: 0; max-width: 14em }
.push { margin-inline-start: auto }
.panel, .uploads li, .answer, .problem { margin-block-start: 10px; padding: 12px 16px;
	background: var(--surface); border: 1px solid var(--border); border-radius: var(--radius) }
.field { width: 100%; padding: 8px 12px; border-color: var(--border) }
.panel ul { max-height: 15em; overflow: auto; margin-block: 8px }
.panel label { display: flex; gap: 10px; padding: 6px }
.citation:hover, .page:hover { background: var(--tint) }
.panel bdi, .body { flex: 1; min-width: 0 }
.problem { border-color: var(--bad) }
.problem b, .failed { color: var(--bad) }
.answer { padding: 20px 22px }
.verdict { display: flex; align-items: center; gap: 8px; font-weight: 600; font-size: .9em;
	color: var(--good) }
.verdict svg { color: inherit }
.unverified .verdict, .flag { color: var(--warn) }
.not_found *, .writing .verdict { color: var(--muted) }
.text { font: 1.22em/1.55 var(--reading); margin-block-start: 8px; white-space: pre-wrap;
	max-width: 42em }
.writing .text::after { content: "▍"; color: var(--accent); }
.citations { margin-block-start: 14px; margin-inline: -12px }
.citation, .page { width: 100%; text-align: start }
.citation { display: flex; gap: 12px; padding: 10px 12px; align-items: start }
.ask button, .number, .badge { background: var(--accent); color: var(--on-accent);
	font-weight: 600 }
.number, .badge { padding: 0 8px; border-radius: 99px; font-size: .82em }
.quote { font-family: var(--reading); background: var(--mark); padding: .08em .3em;
	border-radius: 4px; box-decoration-break: clone }
.strip { display: block; position: relative; overflow: hidden; max-width: 44em; border: 1px solid var(--border);
	border-radius: 8px; margin-block-end: 4px; background: #fff }
.strip img { display: block; width: 100% }
.flag { display: block; font-weight: 600; font-size: .86em }
.pages { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: 10px;
	margin: 8px -8px 0 }
.page { display: grid; gap: 2px; align-content: start; height: 100%; padding: 8px }
.paper { position: relative; aspect-ratio: 1 / 1.3; margin-block-end: 6px; border-radius: 8px;
	overflow: hidden; border: 1px solid var(--border); background: var(--tint) }
.paper img { width: 100%; height: 100%; object-fit: contain }
.cited .paper { outline: 2px solid var(--accent) }
.badge { position: absolute; inset: 6px auto auto 6px }
.name { font-size: .9em; line-height: 1.3; max-height: 2.6em; overflow: hidden; font-weight: 600 }
.uploads li { display: grid; grid-template-columns: 1fr auto; gap: 2px 12px }
progress { grid-column: 1 / -1; width: 100%; height: 6px }
.drop { position: absolute; inset: 8px; z-index: 2; display: grid; place-content: center;
	border: 2px dashed var(--accent); border-radius: var(--radius); pointer-events: none;
	background: var(--surface); opacity: .95; font-weight: 600; color: var(--accent) }
dialog { width: min(1240px, 100vw - 32px); height: calc(100dvh - 32px); max-width: none;
	max-height: none; padding: 0; border: 1px solid var(--border); overflow: hidden;
	border-radius: var(--radius); background: var(--surface); color: var(--text) }
dialog[open] { display: grid; grid-template: auto 1fr / 1fr minmax(250px, 310px) }
::backdrop { background: #0b0e11b8 }
header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 8px 12px; padding: 10px 14px;
	align-items: center; border-block-end: 1px solid var(--border) }
.title { flex: 1 12em; min-width: 0 }
.title h3 { color: var(--text); font-size: 1em; white-space: nowrap; overflow: hidden;
	text-overflow: ellipsis }
.tool { min-width: 36px; height: 36px; padding: 0 8px; margin-inline-end: 4px; font-size: 1.1em;
	border-color: var(--border) }
.stage, aside { overflow: auto; padding: 16px; outline-offset: -3px }
.stage { text-align: center;
	background: light-dark(#ecebe6, #111417) }
.sheet { position: relative; display: inline-block }
.current { position: absolute; outline: 3px solid #c2410c; border-radius: 2px;
	box-shadow: 0 0 0 5px #fff }
.stage img { background: #fff; box-shadow: 0 2px 18px #00000038; vertical-align: top }
aside { display: grid; gap: 18px; align-content: start;
	border-inline-start: 1px solid var(--border); font-size: .93em }
aside section { display: grid; gap: 6px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: start; padding: 4px 0; border-block-end: 1px solid var(--border);
	font-weight: 400; vertical-align: baseline }
thead th { color: var(--muted); font-size: .86em }
td + td, th + th { text-align: end }
a { color: var(--accent) }
.pagetext { white-space: pre-wrap; max-height: 18em; overflow: auto }
@container (min-width: 560px) { .seen { position: absolute; clip-path: inset(50%) } }
@container (max-width: 559px) {
	.answer { padding: 16px }
	.pages { grid-template-columns: repeat(2, minmax(0, 1fr)) }
	.strips { display: none }
}
@media (max-width: 760px) {
	dialog { width: 100vw; height: 100dvh; border: 0; border-radius: 0 }
	dialog[open] { grid-template: auto 1fr auto / 100% }
	header { padding: 8px; gap: 8px }
	.title { flex-basis: calc(100% - 60px); order: -2 }
	.close { order: -1 }
	aside { border: 0; border-block-start: 1px solid var(--border); max-height: 34dvh }
}
`;

const ICONS = {
	glass: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14ZM20.5 20.5 16 16",
	add: "M12 16V5M7 9l5-5 5 5M5 20h14",
	answered: "M5 12.5 10 17l9-10",
	unverified: "M12 4 2.5 20h19ZM12 10v4M12 17v.1",
	not_found: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17ZM8.5 12h7",
};
const RETRIEVERS = {
	dense: "meaning of the text", sparse: "words of the text", tokens: "text, word by word",
	patches: "look of the page", clip: "page as a picture",
};
const BOXES = /^\d+(-\d+){3}(\.\d+(-\d+){3}){0,99}$/;
const GAP = 0.06;
const MARK_HEIGHT = 0.42;
const STRIPS = 3;
const VERDICTS = {
	answered: "Answer, its quotes verified", unverified: "Not verified: check the pages",
	not_found: "Not found in these documents",
};
const RETRY = "Retry-After";
const ENDED = { done: "Indexed", dead: "Failed", cancelled: "Cancelled" };

/** make("p.small", { role: "status" }, "text") */
function make(what, props, ...children) {
	const [tag, ...classes] = what.split(".");
	const node = document.createElement(tag);
	if (classes.length) node.className = classes.join(" ");
	if (tag === "button") node.type = "button";
	set(node, props);
	node.append(...children.flat(9).filter((child) => child != null && child !== false));
	return node;
}

function set(node, props) {
	for (const [name, value] of Object.entries(props || {})) {
		if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
		else node.setAttribute(name === "label" ? "aria-label" : name, value);
	}
}

function icon(name) {
	const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
	const path = document.createElementNS(svg.namespaceURI, "path");
	path.setAttribute("d", ICONS[name]);
	set(svg, { viewBox: "0 0 24 24", "aria-hidden": "true" });
	svg.append(path);
	return svg;
}

const plural = (count, noun) => `${count.toLocaleString()} ${noun}${count === 1 ? "" : "s"}`;
const sentence = (text) =>
	text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";
const documentPath = (id) => `/documents/${encodeURIComponent(id)}`;
const pagePath = (id, page) => `${documentPath(id)}/pages/${page}`;
const labelOf = ({ page, page_label: label }) =>
	label && label !== String(page) ? `Page ${label} (${page})` : `Page ${page}`;
const boxesOf = (highlight) => (highlight ? highlight.split(".") : [])
	.map((box) => box.split("-").map((share) => share / 10000));
const highlightOf = (url) => new URLSearchParams(url.split("?")[1]).get("highlight") || "";

/** Boxes as the marks a reader sees, in their order: a table's head and a row of it are two.
 * Heights are measured in widths of the page, `ratio` high; none is over MARK_HEIGHT. */
function marksOf(boxes, ratio) {
	const marks = [];
	for (const [x0, y0, x1, y1] of boxes) {
		const near = marks.find(([, top, , bottom]) => y0 - bottom < GAP / ratio && top - y1 < GAP / ratio
			&& Math.max(y1, bottom) - Math.min(y0, top) <= MARK_HEIGHT / ratio);
		if (!near) marks.push([x0, y0, x1, y1]);
		else near.splice(0, 4, Math.min(x0, near[0]), Math.min(y0, near[1]),
			Math.max(x1, near[2]), Math.max(y1, near[3]));
	}
	return marks;
}

function withQuery(path, query) {
	const [bare, old] = path.split("?");
	const all = new URLSearchParams(old);
	for (const [name, value] of Object.entries(query)) if (value) all.set(name, value);
	return `${bare}?${all}`;
}

/** What a server refused or could not do. */
class Problem extends Error {
	constructor({ status = 0, code = "", title = "", detail = "", request_id = "" }, wait) {
		super(detail || title);
		const retryAfter = Number(wait) || null; // Seconds.
		Object.assign(this, { status, code, title, retryAfter, requestId: request_id });
		this.advice = retryAfter ? `Try again in ${plural(retryAfter, "second")}.`
			: [0, 429, 503].includes(status) ? "Try again in a moment." : "";
	}

	static parse(text, status, wait) {
		let body;
		try { body = JSON.parse(text); } catch { /* Some proxy's page. */ }
		return new Problem({ detail: `the server answered ${status}`, ...body, status }, wait);
	}
}

class Server {
	constructor(endpoint, key) {
		const { origin, pathname } = new URL(endpoint || ".", document.baseURI);
		this.root = (origin + pathname).replace(/\/+$/, "");
		this.key = key;
	}

	/** The address of a path: only ever one below the endpoint. */
	url(path) {
		const { href } = new URL(this.root + path);
		if (path[0] === "/" && href.startsWith(`${this.root}/`)) return href;
		throw new Problem({ detail: "an address of another server" });
	}

	async fetch(path, accept, options) {
		const headers = { Accept: accept };
		if (this.key) headers.Authorization = `Bearer ${this.key}`;
		if (options?.body) headers["Content-Type"] = "application/json";
		let response;
		try {
			response = await fetch(this.url(path), { credentials: "omit", ...options, headers });
		} catch (error) {
			if (!(error instanceof TypeError)) throw error;
			throw new Problem({
				detail: `nothing answers at ${this.root}, or this site may not use it` });
		}
		if (response.ok) return response;
		throw Problem.parse(await response.text(), response.status, response.headers.get(RETRY));
	}

	async json(path) {
		return (await this.fetch(path, "application/json")).json();
	}

	/** The events of an answer while it is made: [name, data]. */
	async *ask(asked, signal) {
		const options = { method: "POST", body: JSON.stringify(asked), signal };
		let response;
		try {
			response = await this.fetch("/ask", "text/event-stream", options);
		} catch (error) {
			if (error.code !== "key-forbidden") throw error;
			// A key for searching alone. Where that is not why, this is refused, too.
			const found = await this.fetch("/search", "application/json", options);
			yield ["search", await found.json()];
			yield ["pages"];
			return;
		}
		let text = "";
		const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
		for (;;) {
			const { value, done } = await reader.read();
			if (done) return;
			const blocks = (text + value).replace(/\r\n/g, "\n").split("\n\n");
			text = blocks.pop();
			for (const block of blocks) {
				const fields = { event: "", data: "" };
				for (const line of block.split("\n")) {
					const [, name, rest] = /^(\w+): ?(.*)$/.exec(line) || [];
					if (name in fields) fields[name] += rest;
				}
				if (fields.data) yield [fields.event, JSON.parse(fields.data)];
			}
		}
	}
}

/** An <img> fetched with the key; its blob is let go once it is not shown. */
class Picture {
	node = make("img", { alt: "" });
	#path;
	#url;
	#loading;

	async show(server, path) {
		if (path === this.#path) return;
		this.#loading?.abort();
		const { signal } = (this.#loading = new AbortController());
		this.#path = path;
		try {
			const read = await server.fetch(path, "image/webp,image/jpeg,image/png", { signal });
			const blob = await read.blob();
			if (signal.aborted) return;
			URL.revokeObjectURL(this.#url);
			this.node.src = this.#url = URL.createObjectURL(blob);
			await this.node.decode().catch(() => {});
		} catch (error) {
			if (signal.aborted) return;
			this.#path = null;
			throw error;
		}
	}

	drop() {
		this.#loading?.abort();
		this.#path = null;
		this.node.removeAttribute("src");
		URL.revokeObjectURL(this.#url);
	}
}

/** One page, large: zoom, turn, and why it was found. */
function makeViewer(host) {
	const picture = new Picture();
	const { node } = picture;
	let at = {}; // The page: { id, page, highlight }
	let pages = Infinity;
	let zoom = 1;
	let turns = 0;
	let link, back; // Back to what had the focus.
	let marks = [];
	let mark = 0;
	let place = "";

	const tool = (label, face, onclick) => make("button.tool", { label, title: label, onclick }, face);
	const name = make("h3", { id: "name", dir: "auto" });
	const where = make("p.small", { role: "status" });
	const current = make("div.current", { hidden: "" });
	const jumps = make("div", { hidden: "" }, tool("Previous mark", "↑", () => jump(-1)),
		tool("Next mark", "↓", () => jump(1)));
	const previous = tool("Previous page", "‹", () => turn(-1));
	const next = tool("Next page", "›", () => turn(1));
	const percent = tool("Fit to the width", "100%", () => zoomBy(0));
	const heat = make("button.chip", { onclick: () => {
		set(heat, { "aria-pressed": heat.ariaPressed !== "true" });
		draw();
	} }, "Heat-map");
	const copy = make("button.chip", { onclick: async () => {
		let copied = true;
		try {
			await navigator.clipboard.writeText(link);
		} catch { // There is none on plain http, or it is not allowed.
			address.hidden = false;
			address.value = link;
			address.select();
			copied = document.execCommand("copy");
			if (copied) {
				address.hidden = true;
				copy.focus();
			}
		}
		copy.textContent = copied ? "Link copied" : "Copy the link here";
	} });
	const address = make("input.field", { readonly: "", hidden: "", label: "Link to this page" });
	const close = tool("Close", "×", () => dialog.close());
	close.classList.add("close");
	const message = make("p", { role: "alert" });
	const stage = make("div.stage", { part: "stage", tabindex: 0, role: "region", label: "The page" },
		make("div.sheet", {}, node, current), message);
	const side = make("aside", { label: "About this page", tabindex: 0 });
	const dialog = make("dialog", { part: "viewer", "aria-labelledby": "name", onkeydown: onKey,
		onclose: () => {
			turns++;
			picture.drop();
			(back?.isConnected ? back : host.input).focus();
			host.tell("close");
		} },
	make("header", {}, make("div.title", {}, name, where), make("div", {}, previous, next), jumps,
		make("div", {}, tool("Zoom out", "−", () => zoomBy(0.8)), percent,
			tool("Zoom in", "+", () => zoomBy(1.25))), heat, copy, close, address), stage, side);
	stage.addEventListener("wheel", (event) => {
		if (!event.ctrlKey) return;
		event.preventDefault();
		zoomBy(Math.exp(-event.deltaY / 300), event);
	}, { passive: false });
	new ResizeObserver(size).observe(stage);

	function open(id, page, highlight) {
		if (!dialog.open) {
			back = dialog.getRootNode().activeElement;
			zoom = 1;
			set(heat, { "aria-pressed": false });
			dialog.showModal();
			stage.focus();
		}
		at = { id, page, highlight: BOXES.test(highlight) ? highlight : "" };
		pages = Infinity;
		return draw();
	}

	function turn(by) {
		const page = at.page + by;
		if (page < 1 || page > pages) return;
		at = { id: at.id, page, highlight: host.found(at.id, page).highlight };
		draw();
	}

	/** To another mark, round and round. */
	function jump(by) {
		if (!marks.length) return;
		mark = (mark + by + marks.length) % marks.length;
		const [x0, y0, x1, y1] = marks[mark];
		const share = (part) => `${100 * part}%`;
		Object.assign(current.style, { left: share(x0), top: share(y0), width: share(x1 - x0),
			height: share(y1 - y0) });
		stage.scrollTo(x0 * node.offsetWidth - stage.clientWidth / 3,
			y0 * node.offsetHeight - stage.clientHeight / 3);
		jumps.hidden = current.hidden = marks.length < 2;
		if (!jumps.hidden) where.textContent = `${place}, mark ${mark + 1} of ${marks.length}`;
	}

	/** About the pointer or the middle; 0 fits the width again. */
	function zoomBy(factor, pointer) {
		const { left, top, width, height } = stage.getBoundingClientRect();
		const x = pointer ? pointer.clientX - left : width / 2;
		const y = pointer ? pointer.clientY - top : height / 2;
		const before = zoom;
		zoom = factor ? Math.min(8, Math.max(0.25, zoom * factor)) : 1;
		const to = [stage.scrollLeft + x, stage.scrollTop + y].map((old) => (old * zoom) / before);
		size();
		stage.scrollTo(to[0] - x, to[1] - y);
	}

	function size() {
		const room = stage.clientWidth - 2 * parseFloat(getComputedStyle(stage).paddingTop);
		node.style.width = `${Math.round(Math.min(room, 900) * zoom)}px`;
		percent.textContent = `${Math.round(100 * zoom)}%`;
	}

	function bound() {
		previous.disabled = at.page <= 1;
		next.disabled = at.page >= pages;
	}

	async function draw() {
		const now = ++turns;
		const { server, asked } = host;
		const { id, page, highlight } = at;
		const { hit, citations } = host.found(id, page);
		const label = labelOf(hit || at);
		// In the fragment, so that no log has it.
		const fragment = { document: id, page, ...(highlight && { highlight }) };
		link = `${server.root}/#${new URLSearchParams(fragment)}`;
		heat.hidden = !asked || !host.can.includes("heatmap");
		const heatmap = !heat.hidden && heat.ariaPressed === "true" && asked;
		if (hit) name.textContent = hit.document_name;
		where.textContent = label;
		marks = [];
		jumps.hidden = current.hidden = true;
		copy.textContent = "Copy link";
		address.hidden = true;
		message.textContent = "";
		bound();
		side.replaceChildren(...about(hit, citations));
		host.tell("open", { documentId: id, page, highlight, link });
		try {
			const image = withQuery(`${pagePath(id, page)}/image`, heatmap ? { heatmap } : { highlight });
			const [read] = await Promise.all([server.json(documentPath(id)), picture.show(server, image)]);
			if (now !== turns) return;
			({ pages } = read);
			bound();
			name.textContent = read.name;
			where.textContent = place = `${label} of ${pages.toLocaleString()}`;
			node.alt = `${label} of ${read.name}`;
			stage.scrollTop = 0;
			marks = marksOf(boxesOf(highlight), node.naturalHeight / node.naturalWidth);
			mark = 0;
			jump(0);
		} catch (error) {
			if (now !== turns) return;
			picture.drop();
			message.textContent = sentence(error.message);
		}
	}

	function about(hit, citations) {
		const { server } = host;
		const why = hit?.why;
		const section = (title, ...rest) => make("section", {}, make("h3", {}, title), rest);
		const row = (cell, ...cells) => make("tr", {}, cells.map((text) => make(cell, {}, text)));
		const text = make("div.pagetext", { dir: "auto", tabindex: 0, role: "region",
			label: "Text of this page" });
		server.json(pagePath(at.id, at.page))
			.then((read) => { text.textContent = read.text || "None was read."; }, () => {});
		return [
			citations.length && section("Quoted from this page", citations.map((citation) =>
				make("p", { dir: "auto" }, make("span.quote", {}, citation.quote), flag(citation)))),
			why && section("Why this page", make("table", { part: "why" },
				make("thead", {}, row("th", "Found by", "Rank", "Score")),
				make("tbody", {}, why.retrievers.map(({ retriever, rank, score }) => row("td",
					[retriever, make("div.small", {}, RETRIEVERS[retriever])], String(rank),
					String(Number(score.toPrecision(3))))))),
			make("p.small", {}, `Together: rank ${why.fused_rank}.`, why.yes != null
				&& ` The reranking model says yes with ${Math.round(100 * why.yes)} %.`)),
			why?.duplicates.length && section("Also stands for", why.duplicates.map((twin) => {
				const { document_id: id, page } = twin;
				const title = make("bdi");
				server.json(documentPath(id)).then((read) => { title.textContent = read.name; }, () => {});
				return make("button.chip", { onclick: () => open(id, page, "") }, title,
					`page ${page}`);
			})),
			make("details", {}, make("summary", {}, "Text of this page"), text),
			make("a", { href: link, target: "_blank", rel: "noopener" }, link),
		].filter(Boolean);
	}

	function onKey(event) {
		if (event.altKey || event.ctrlKey || event.metaKey) return;
		const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
		const factor = { "+": 1.25, "=": 1.25, "-": 0.8, 0: 0 }[event.key];
		if (sideways) {
			// A page wider than the stage is moved first, and turned at its edge.
			const before = stage.scrollLeft;
			stage.scrollLeft += 60 * sideways;
			if (stage.scrollLeft === before) turn(sideways);
		} else if (factor != null) zoomBy(factor);
		else if (marks[1] && "np".includes(event.key)) jump(event.key === "n" ? 1 : -1);
		else return;
		event.preventDefault();
	}

	return { dialog, open };
}

const flag = ({ verified }) => !verified
	&& make("span.flag", { part: "unverified" }, "Not verified: not found on the page");

/** Which documents are asked: a list to search and choose from. */
function makeFilter(host) {
	const chosen = new Set(); // Ids.
	let readings = 0;

	const label = make("span");
	const button = make("button.chip", { "aria-expanded": false, "aria-controls": "documents",
		onclick: toggle }, label);
	const find = "Find a document";
	const search = make("input.field", { type: "search", placeholder: find, label: find, dir: "auto",
		oninput: sift });
	const list = make("ul", { role: "list" });
	const note = make("span.small.push", { role: "status" });
	const panel = make("div.panel", { id: "documents", part: "documents", role: "group",
		label: "Documents to ask", hidden: "", onkeydown: (event) => {
			if (event.key !== "Escape") return;
			event.stopPropagation();
			toggle();
			button.focus();
		} }, search, list, make("div.row", {},
		make("button.chip", { onclick: () => choose([]) }, "Ask all documents"), note));
	choose([]);

	function toggle() {
		panel.hidden = !panel.hidden;
		set(button, { "aria-expanded": !panel.hidden });
		if (panel.hidden) return;
		search.focus();
		if (!list.firstChild) read();
	}

	function choose(ids) {
		chosen.clear();
		for (const id of ids) chosen.add(id);
		for (const box of list.querySelectorAll("input")) box.checked = chosen.has(box.value);
		title();
	}

	function title() {
		label.textContent = chosen.size ? plural(chosen.size, "document") : "All documents";
		button.classList.toggle("on", chosen.size);
	}

	/** Forget what was read: another collection or server, or a new document. */
	function reset() {
		readings++;
		list.replaceChildren();
		if (!panel.hidden) read();
	}

	async function read() {
		const reading = ++readings;
		const { server, collection } = host;
		try {
			for (let cursor = ""; cursor != null;) {
				const path = withQuery("/documents", { limit: 200, collection, cursor });
				const { documents, next_cursor } = await server.json(path);
				if (reading !== readings) return;
				list.append(...documents.map(row));
				sift();
				cursor = next_cursor;
			}
		} catch (error) {
			note.textContent = sentence(error.message);
		}
	}

	function row({ id, name, pages }) {
		const box = make("input", { type: "checkbox", value: id, onchange: () => {
			if (box.checked) chosen.add(id);
			else chosen.delete(id);
			title();
		} });
		box.checked = chosen.has(id);
		return make("li", {}, make("label", {}, box, make("bdi", {}, name),
			make("span.small", {}, plural(pages, "page"))));
	}

	function sift() {
		const wanted = search.value.trim().toLowerCase();
		let shown = 0;
		for (const item of list.children) {
			item.hidden = !item.querySelector("bdi").textContent.toLowerCase().includes(wanted);
			shown += !item.hidden;
		}
		note.textContent = plural(shown, "document");
	}

	return { chosen, button, panel, toggle, choose, reset };
}

/** Files on their way into a collection, one after the other. */
function makeUploads(host) {
	const list = make("ul.uploads", { part: "uploads", role: "list", label: "Uploads" });
	let last = Promise.resolve();

	function add(file) {
		const collection = host.target; // As it was said when the file was given.
		const bar = make("progress", { max: 1, label: `Progress of ${file.name}` });
		const says = make("span.small", { role: "status" }, "Waiting");
		list.prepend(make("li", {}, make("bdi", {}, file.name), says, bar));
		const show = (text, share) => {
			if (says.textContent !== text) says.textContent = text;
			if (share == null) bar.removeAttribute("value");
			else bar.value = share;
		};
		const end = (state, text, taken = null) => {
			bar.hidden = true;
			show(text);
			says.classList.toggle("failed", state !== "done");
			host.tell("upload", { name: file.name, state, text, document: taken });
			if (taken) host.refresh();
		};
		const refused = (error) => end("refused", `${sentence(error.message)} ${error.advice || ""}`);
		last = last.then(async () => {
			const { server } = host;
			const taken = await send(server, file, collection, show);
			follow(server, taken, show, end).catch(refused);
		}).catch(refused);
	}

	async function send(server, file, collection, show) {
		const body = new FormData();
		body.append("file", file);
		body.append("collection", collection);
		const { documents, refused } = await new Promise((resolve, reject) => {
			// fetch cannot say how far an upload has come.
			const request = new XMLHttpRequest();
			request.open("POST", server.url("/documents"));
			if (server.key) request.setRequestHeader("Authorization", `Bearer ${server.key}`);
			request.upload.onprogress = ({ loaded, total }) =>
				show(`Sending, ${Math.round((100 * loaded) / total)} %`, loaded / total);
			request.onload = () => {
				const { status, responseText } = request;
				try {
					if (status === 202) return resolve(JSON.parse(responseText));
				} catch { /* Some proxy's page. */ }
				reject(Problem.parse(responseText, status, request.getResponseHeader(RETRY)));
			};
			request.onerror = () => reject(new Problem({ detail: "the upload broke off" }));
			request.send(body);
		});
		if (documents.length) return documents[0];
		throw new Problem(refused[0]);
	}

	async function follow(server, taken, show, end) {
		while (host.element.isConnected) {
			const { state, reason, pages, pages_done: done } =
				await server.json(`/jobs/${taken.id}`);
			if (ENDED[state]) {
				const says = [ENDED[state], state === "done" && plural(pages, "page"), reason];
				return end(state, says.filter(Boolean).join(": "), taken);
			}
			show(state === "running" && pages ? `Indexing, page ${done} of ${pages}`
				: sentence(reason) || "Queued", pages ? done / pages : null);
			await new Promise((resolve) => { setTimeout(resolve, 700); });
		}
	}

	return { list, add };
}

/** All of the element but what hosts see of it. */
function makeSearch(element) {
	let asking; // The AbortController of the question under way.
	let hits = [];
	let citations = [];
	let strips = [];
	let tiles = new Map(); // document and page -> tile
	let shown = "";
	let dragged = 0;

	const input = make("textarea", { part: "input", dir: "auto", rows: 1, enterkeyhint: "search",
		onkeydown: (event) => {
			if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
			event.preventDefault();
			ask(input.value);
		} });
	const button = make("button", { part: "ask",
		onclick: () => (asking ? stop() : ask(input.value)) }, "Ask");
	const select = make("select", { label: "Collection", onchange: narrow },
		make("option", { value: "" }, "All collections"));

	const self = {
		element, input, select, can: [], access: {}, target: "", server: null, key: undefined,
		asked: "", // What the pages shown were found for.
		get collection() { return element.getAttribute("collection") || select.value; },
		ask, stop, found, tell, connect, look, refresh, offer, narrow, clear,
	};
	const viewer = (self.viewer = makeViewer(self));
	const filter = (self.filter = makeFilter(self));
	const uploads = makeUploads(self);

	const heading = make("h2", { part: "heading" });
	const within = make("label.chip", {}, select);
	const files = make("input", { type: "file", multiple: "", hidden: "", onchange: () => {
		[...files.files].forEach(uploads.add);
		files.value = "";
	} });
	const target = make("bdi");
	const add = make("button.chip.push", { part: "upload", onclick: () => files.click() },
		icon("add"), make("span", {}, "Add documents to ", target));
	const status = make("p.status.small", { part: "status", role: "status" });
	const problem = make("div.problem", { part: "problem", role: "alert", hidden: "" });
	const verdict = make("p.verdict", { part: "verdict" });
	const text = make("div.text", { part: "text", dir: "auto", "aria-live": "polite" });
	const cites = make("ol.citations", { role: "list", label: "Citations" });
	const notes = make("div.small", { part: "notes" });
	const answer = make("section.answer", { part: "answer", label: "Answer", hidden: "" },
		verdict, text, cites, notes);
	const title = make("h3");
	const pages = make("ol.pages", { part: "pages", role: "list" });
	const results = make("section.found", { label: "Pages found", hidden: "" }, title, pages);
	const drop = make("div.drop", { part: "drop", hidden: "" }, "Drop files to add them");
	const sight = new IntersectionObserver((entries) => {
		for (const entry of entries) if (entry.isIntersecting) entry.target.show();
	}, { rootMargin: "200px" });

	const root = element.attachShadow({ mode: "open" });
	const sheet = new CSSStyleSheet(); // No Content-Security-Policy forbids one.
	sheet.replaceSync(STYLE);
	root.adoptedStyleSheets = [sheet];
	root.append(heading,
		make("div.ask", { part: "form", role: "search" }, icon("glass"), input, button),
		make("div.row", { part: "filters" }, within, filter.button, add, files),
		filter.panel, uploads.list, status, problem, answer, results, drop, viewer.dialog);
	root.addEventListener("keydown", ({ key }) => {
		if (key === "Escape" && !viewer.dialog.open) stop();
	});
	for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
		element.addEventListener(name, onDrag);
	}

	function tell(name, detail) {
		element.dispatchEvent(new CustomEvent(`pageglass-${name}`,
			{ detail, bubbles: true, composed: true }));
	}

	function connect() {
		const key = self.key ?? element.getAttribute("key");
		self.access = {};
		problem.hidden = true;
		try {
			self.server = new Server(element.getAttribute("endpoint"), key);
		} catch {
			self.server = new Server("", key);
			onProblem(new Problem({ detail: "the endpoint is no address" }));
		}
	}

	/** Look again at what the server has. */
	async function refresh() {
		if (!element.isConnected) return;
		const { server } = self;
		filter.reset();
		try {
			const { can, needs_key: locked } = await server.json("/version");
			self.can = can;
			if (locked && !server.key) return;
			const access = await server.json("/access");
			if (server !== self.server) return;
			self.access = access;
			aim();
			if (element.hasAttribute("collection")) return;
			const { collections } = await server.json("/collections");
			if (server === self.server) for (const { name } of collections) offer(name);
		} catch (error) {
			// A wrong key is said at once; a question will meet whatever else there is.
			if (error.status === 401 && server === self.server) onProblem(error);
		}
	}

	function look() {
		const placeholder = element.getAttribute("placeholder") || "Ask your documents…";
		set(input, { placeholder, label: placeholder });
		heading.textContent = element.getAttribute("heading");
		heading.hidden = !heading.textContent;
		within.hidden = element.hasAttribute("collection");
		aim();
	}

	/** Who may add documents sees where to. */
	function aim() {
		const { scopes = [], collections } = self.access;
		add.hidden = !element.hasAttribute("upload") || !scopes.includes("ingest");
		self.target = self.collection
			|| (!collections || collections.includes("default") ? "default" : collections[0]);
		target.textContent = self.target;
		drop.textContent = `Drop files to add them to ${self.target}`;
	}

	function offer(name) {
		if ([...select.options].some(({ value }) => value === name)) return;
		select.append(make("option", { value: name }, name));
	}

	function narrow() {
		aim();
		filter.choose([]);
		filter.reset();
	}

	async function ask(question) {
		stop();
		input.value = question;
		self.asked = question.trim();
		if (!self.asked) return input.focus();
		const mine = (asking = new AbortController());
		const { signal } = mine;
		clear();
		if (!filter.panel.hidden) filter.toggle();
		problem.hidden = answer.hidden = true;
		button.textContent = "Stop";
		say("Looking for pages…");
		const { collection } = self;
		const body = { question: self.asked, ...(collection && { collection }),
			documents: [...filter.chosen] };
		tell("ask", { ...body, collection });
		try {
			for await (const [name, data] of self.server.ask(body, signal)) {
				if (signal.aborted) return null;
				if (name === "search") onSearch(data);
				if (name === "token") {
					if (data.restart) text.replaceChildren();
					text.append(data.text);
				}
				if (name === "citation") {
					cite([...citations, data]);
					draw();
				}
				if (name === "error") throw new Problem(data);
				if (name === "pages") {
					answer.hidden = true;
					say(`${plural(hits.length, "page")} found.`);
					return null;
				}
				if (name === "answer") {
					onAnswer(data);
					return data;
				}
			}
			throw new Problem({ detail: "the answer broke off" });
		} catch (error) {
			if (!signal.aborted) onProblem(error);
			return null;
		} finally {
			if (asking === mine) settle();
		}
	}

	function stop() {
		if (!asking) return;
		settle();
		say("Stopped.");
		answer.hidden = !text.textContent;
	}

	function settle() {
		asking.abort();
		asking = null;
		button.textContent = "Ask";
		answer.classList.remove("writing");
		text.ariaBusy = "false";
	}

	function clear() {
		hits = [];
		cite([]);
		draw();
		text.replaceChildren();
		notes.replaceChildren();
	}

	/** Told to everybody; shown where nothing else does. */
	function say(words, visible = true) {
		status.textContent = words;
		status.classList.toggle("sr", !visible);
	}

	function judge(state, words, sign) {
		answer.className = `answer ${state}`;
		answer.hidden = false;
		verdict.replaceChildren(icon(sign), words);
	}

	function onSearch(found) {
		hits = found.pages;
		draw();
		judge("writing", "Reading the pages…", "glass");
		text.ariaBusy = "true";
		say(`${plural(hits.length, "page")} found.`, false);
		tell("search", found);
	}

	function onAnswer(given) {
		const state = given.answer_status;
		hits = given.pages;
		cite(given.citations);
		draw(state);
		judge(state, VERDICTS[state], state);
		text.textContent = given.answer;
		const seconds = Object.values(given.timings_ms).reduce((sum, ms) => sum + ms, 0) / 1000;
		notes.replaceChildren(...[...given.notes.map(sentence),
			`${given.model} · ${seconds.toFixed(1)} s`].map((note) => make("p", { dir: "auto" }, note)));
		say(`${VERDICTS[state]}. ${plural(citations.length, "citation")}.`, false);
		tell("answer", given);
	}

	function onProblem(error) {
		// The connection's end and half a message have no words for people.
		const { title: name, message: detail, advice, requestId, status: code = 0, ...more } =
			error instanceof Problem ? error : new Problem({ detail: "the answer broke off" });
		answer.hidden = !text.textContent;
		say("");
		problem.replaceChildren(make("b", {}, name || "This could not be answered."),
			make("p", {}, sentence(detail), " ", advice),
			requestId ? make("p.small", {}, `Request ${requestId}`) : "");
		problem.hidden = false;
		tell("error", { status: code, detail, requestId, ...more });
	}

	/** What is known of a page: its hit, its citations, and their boxes in one. */
	function found(id, page) {
		const same = (other) => other.document_id === id && other.page === page;
		const quoted = citations.filter(same);
		const boxes = quoted.flatMap((one) => highlightOf(one.image_url).split("."));
		const highlight = [...new Set(boxes)].filter(Boolean).slice(0, 100).join(".");
		return { hit: hits.find(same), citations: quoted, highlight };
	}

	function cite(given) {
		citations = given;
		for (const picture of strips) picture.drop();
		strips = [];
		cites.replaceChildren(...given.map((citation, at) => {
			const { document_id: id, page, document_name: name, image_url: url } = citation;
			return make("li", {}, make("button.citation", { part: "citation",
				onclick: () => viewer.open(id, page, highlightOf(url)) },
			make("span.number", {}, String(at + 1)),
			make("span.body", { dir: "auto" }, strip(citation),
				make("span.small", {}, make("bdi", {}, name), ` · ${labelOf(citation)}`),
				flag(citation))));
		}));
	}

	/** The quoted words and, where there is room, strips of the page: one a mark, the first ones. */
	function strip({ quote, boxes, image_url: url }) {
		const words = make("span", {}, make("span.quote", {}, quote), make("br"));
		if (!boxes.length) return words;
		const picture = new Picture();
		const { node } = picture;
		const frames = make("span.strips");
		strips.push(picture);
		picture.show(self.server, url).then(() => {
			const ratio = node.naturalHeight / node.naturalWidth;
			if (!ratio) return;
			const marks = marksOf(boxes, ratio);
			for (const [, y0, , y1] of marks.slice(0, STRIPS)) {
				const top = Math.max(0, y0 - GAP / 2 / ratio);
				const part = node.cloneNode();
				const frame = make("span.strip", {}, part);
				frame.style.aspectRatio = 1 / (ratio * (Math.min(1, y1 + GAP / 2 / ratio) - top));
				part.style.marginTop = `${-100 * top * ratio}%`;
				frames.append(frame);
			}
			const more = marks.length - STRIPS;
			// Whole in the strips, the words are for those who cannot see them.
			if (more > 0) frames.append(make("span.small", {}, `${plural(more, "more mark")}: open the page`),
				make("br"));
			else words.className = "seen";
		}).catch(() => {});
		return [frames, words];
	}

	/** Tiles keep their place and picture while more becomes known of their pages. */
	function draw(state) {
		const old = tiles;
		tiles = new Map(hits.map((hit) => {
			const id = `${hit.document_id}/${hit.page}`;
			return [id, old.get(id) || tile(hit)];
		}));
		for (const [id, { node, picture }] of old) {
			if (tiles.has(id)) continue;
			sight.unobserve(node);
			picture.drop();
		}
		const ids = [...tiles.keys()].join();
		// A node that is moved loses the focus.
		if (ids !== shown) pages.replaceChildren(...[...tiles.values()].map(({ node }) => node));
		shown = ids;
		for (const { update } of tiles.values()) update();
		title.textContent = state === "not_found" ? "The nearest pages" : "Pages";
		results.hidden = !tiles.size;
	}

	function tile(hit) {
		const { document_id: id, page } = hit;
		const picture = new Picture();
		const badge = make("span.badge");
		const open = make("button.page", { onclick: () => viewer.open(id, page, found(id, page).highlight) },
			make("div.paper", {}, picture.node, badge), make("span.name", { dir: "auto" }, hit.document_name),
			make("span.small", {}, labelOf(hit)));
		const node = make("li", {}, open);
		let seen = false;
		const update = () => {
			const { citations: own, highlight } = found(id, page);
			const cited = own.map((one) => citations.indexOf(one) + 1).join(", ");
			badge.hidden = !cited;
			badge.textContent = `Cited ${cited}`;
			open.classList.toggle("cited", cited);
			set(open, { part: cited ? "page cited" : "page" });
			const width = devicePixelRatio > 1 ? 480 : 240;
			if (seen) picture.show(self.server, withQuery(hit.image_url, { highlight, width }))
				.catch(() => { picture.node.alt = "This picture cannot be loaded"; });
		};
		node.show = () => {
			seen = true;
			sight.unobserve(node);
			update();
		};
		sight.observe(node);
		return { node, picture, update };
	}

	function onDrag(event) {
		const { type, dataTransfer } = event;
		if (add.hidden || !dataTransfer?.types.includes("Files")) return;
		event.preventDefault();
		dragged += { dragenter: 1, dragleave: -1, drop: -dragged }[type] || 0;
		if (type === "drop") [...dataTransfer.files].forEach(uploads.add);
		drop.hidden = dragged < 1;
	}

	return self;
}

/** What hosts use: docs/embedding.md. */
class PageglassSearch extends HTMLElement {
	static observedAttributes = ["endpoint", "key", "collection", "upload", "heading", "placeholder"];
	#ui = makeSearch(this);

	connectedCallback() {
		this.attributeChangedCallback();
	}

	attributeChangedCallback() {
		if (!this.isConnected) return;
		this.#ui.connect();
		this.#ui.look();
		this.#ui.refresh();
	}

	disconnectedCallback() {
		this.#ui.stop();
		this.#ui.clear();
	}

	get endpoint() { return this.#ui.server?.root; }
	set endpoint(url) { this.setAttribute("endpoint", url); }

	/** Kept out of the document: the attribute does not follow it. */
	get key() { return this.#ui.key ?? this.getAttribute("key") ?? ""; }
	set key(key) {
		this.#ui.key = key;
		this.attributeChangedCallback();
	}

	get collection() { return this.#ui.collection; }
	set collection(name) {
		this.#ui.offer(name);
		this.#ui.select.value = name;
		this.#ui.narrow();
	}

	get documents() { return [...this.#ui.filter.chosen]; }
	set documents(ids) { this.#ui.filter.choose(ids); }

	get question() { return this.#ui.input.value; }
	set question(text) { this.#ui.input.value = text; }

	/** Resolves to the answer, or to null where it was stopped or failed. */
	ask(question = this.question) { return this.#ui.ask(question); }
	stop() { this.#ui.stop(); }

	closePage() { this.#ui.viewer.dialog.close(); }

	/** `highlight` as in the address of a page's image. */
	openPage(documentId, page, { highlight = "" } = {}) {
		return this.#ui.viewer.open(documentId, Math.max(1, parseInt(page, 10) || 1), highlight);
	}
}

customElements.define("pageglass-search", PageglassSearch);
