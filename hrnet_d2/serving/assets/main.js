/* Images to the server, its answers to the page. */

const DATA = JSON.parse($("data").textContent);
const BY_ID = new Map(DATA.ids.map((id, number) => [id, { number, name: DATA.classes[number] }]));
const ALONE = DATA.classes.length === 1; /* then a color tells objects apart, not classes */
const ORIGIN = location.origin;

const state = {
  image: null, /* name, width, height; done: its detections are there */
  answer: null, /* of the server */
  items: [], /* detections: id, number and name of the class, color, score, box, mask */
  threshold: 0.5, hidden: new Set(), chosen: null,
  show: { boxes: true, masks: true, labels: true },
  stream: null, rate: null, request: null, last: null,
};

function setState(name) {
  $("work").dataset.state = name;
  const shown = name !== "empty" && !(name === "error" && $("frame").classList.contains("blank"));
  $("prompt").hidden = shown;
  $("view").hidden = !shown;
  $("results").hidden = name === "empty" || name === "error";
  $("wait").hidden = name !== "busy";
  for (const id of ["save-json", "save-picture"]) $(id).disabled = name !== "done" && !state.stream;
}

function fail(title, text, again) {
  $("error").hidden = !title;
  $("side").classList.toggle("failed", Boolean(title));
  if (!title) return;
  replace($("error"), h("h3", {}, title), h("p", {}, text),
    again ? h("div", { class: "buttons" }, h("button", { type: "button", class: "plain", onclick: again }, "Try again")) : null);
}

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/* Shows an image at once, and its detections when they are there. Returns "done", "busy" if the
   server has too much to do, or "failed". */
async function detect(file, { live = false } = {}) {
  if (state.request) state.request.abort();
  const request = (state.request = new AbortController());
  state.last = file;
  if (!live) {
    stopCamera();
    await show(file);
    setState("busy");
  } else if ($("work").dataset.state !== "done") {
    await show(file);
    setState("busy");
  }
  if (file.size > DATA.imageBytes) return refuse(`The file has ${megabytes(file.size)}; this server takes up to ${megabytes(DATA.imageBytes)}.`);
  const start = performance.now();
  let response, answer;
  try {
    response = await fetch("predict", { method: "POST", body: file, signal: request.signal, headers: { "Content-Type": file.type || "application/octet-stream" } });
    answer = await response.json();
  } catch (error) {
    if (error.name === "AbortError") return "failed";
    return refuse("The server does not answer. Is it still running?", () => detect(file));
  }
  if (request.signal.aborted) return "failed";
  if (!response.ok) {
    const busy = response.status === 429 || response.status === 503;
    if (busy && live) return "busy";
    return refuse(answer.error, busy ? () => detect(file) : null);
  }
  if (live) await show(file);
  accept(answer, file, (performance.now() - start) / 1000);
  return "done";
}

function refuse(text, again) {
  state.items = [];
  state.answer = null;
  setState("error");
  fail("No detections", text, again);
  drawResults();
  return "failed";
}

/* The image itself, before anything is known about it. */
async function show(file) {
  fail(null);
  const picture = $("picture"), address = URL.createObjectURL(file), old = picture.src;
  const size = await new Promise((resolve) => {
    picture.onload = () => resolve({ width: picture.naturalWidth, height: picture.naturalHeight });
    picture.onerror = () => resolve(null); /* a kind that only the server decodes */
    picture.src = address;
  });
  if (old) URL.revokeObjectURL(old);
  picture.alt = file.name;
  $("frame").classList.toggle("blank", !size);
  state.image = { ...(size || { width: 640, height: 480 }), name: file.name, done: false };
  state.chosen = null;
  if (!state.stream) state.items = [];
  $("view").hidden = false;
  $("prompt").hidden = true;
  layOut();
}

function accept(answer, file, seconds) {
  const { width, height } = answer.images[0];
  answer.images[0].file_name = file.name;
  state.answer = answer;
  state.image = { name: file.name, width, height, seconds, done: true };
  const names = new Map(answer.categories.map((c) => [c.id, c.name]));
  state.items = answer.annotations.map((a, i) => {
    const known = BY_ID.get(a.category_id) || { number: a.category_id, name: names.get(a.category_id) };
    return { id: a.id, ...known, color: colorOf(ALONE ? i : known.number), score: a.score, box: a.bbox, mask: a.segmentation };
  });
  setState("done");
  layOut();
  drawResults();
}

function drawResults() {
  drawOverlay();
  const items = visibleItems(), all = state.items;
  $("count").textContent = number(items.length);
  $("count-words").textContent = items.length === 1 ? "object" : "objects";
  replace($("words"), summary(items, all));
  replace($("strip"), all.map((item) => h("i", { class: item.score < state.threshold ? "below" : "", style: { left: `${100 * item.score}%`, background: css(item.color) } })));
  drawClasses();
  replace($("list"), items.map((item) => h("li", {}, h("button", {
    type: "button", "data-id": item.id, onpointerenter: () => choose(item), onpointerleave: () => choose(null), onfocus: () => choose(item), onblur: () => choose(null),
  }, dot(item), h("span", {}, item.name), h("small", {}, sizeOf(item)), h("b", {}, score(item.score))))));
}

const dot = (item) => h("span", { class: "dot", style: { background: css(item.color) }, "aria-hidden": "true" });

function summary(items, all) {
  if (!state.image || !state.image.done || !state.answer) return "";
  const { name, width, height, seconds } = state.image;
  const about = state.rate ? `camera, ${state.rate.toFixed(1)} images/s` : `${name}, ${number(width)} \u00d7 ${number(height)}, ${seconds.toFixed(2)} s`;
  if (items.length || state.hidden.size) return about;
  if (!all.length) return [about, h("br"), "Nothing was found."];
  const best = Math.max(...all.map((item) => item.score));
  const show = h("button", { type: "button", class: "link", onclick: () => setThreshold(Math.floor(100 * best) / 100) }, `show the best, ${score(best)}`);
  return [about, h("br"), "Nothing at these scores: ", show];
}

/* Classes that are found, by number of objects at the threshold; a click hides one. */
function drawClasses() {
  const counts = new Map();
  for (const item of state.items) {
    const entry = counts.get(item.number) || { item, n: 0 };
    if (item.score >= state.threshold) entry.n++;
    counts.set(item.number, entry);
  }
  const found = [...counts.values()].filter(({ item, n }) => n || state.hidden.has(item.number));
  found.sort((a, b) => b.n - a.n || a.item.number - b.item.number);
  replace($("classes"), found.map(({ item, n }) => h("button", { type: "button", "aria-pressed": String(!state.hidden.has(item.number)), onclick: () => {
    if (!state.hidden.delete(item.number)) state.hidden.add(item.number);
    drawResults();
  } }, ALONE ? null : dot(item), item.name, h("small", {}, number(n)))));
}

function setThreshold(value) {
  state.threshold = value;
  $("threshold").value = value;
  $("threshold").setAttribute("aria-valuetext", score(value));
  $("threshold-value").textContent = score(value);
  state.chosen = null;
  drawResults();
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

const stem = () => state.image.name.replace(/\.[^.]*$/, "") || "image";

function saveJson() {
  const shown = new Set(visibleItems().map((item) => item.id));
  const answer = { ...state.answer, annotations: state.answer.annotations.filter((a) => shown.has(a.id)) };
  save(new Blob([JSON.stringify(answer, null, 1)], { type: "application/json" }), `${stem()}.json`);
}

function takeFiles(files) {
  const file = [...(files || [])].find((f) => f.type.startsWith("image/")) || (files || [])[0];
  if (file) detect(file);
}

function watchFiles() {
  let inside = 0;
  const hint = (shown) => ($("drop").hidden = !shown);
  window.addEventListener("dragenter", (e) => { e.preventDefault(); inside++; hint(true); });
  window.addEventListener("dragleave", () => { inside = Math.max(0, inside - 1); hint(inside > 0); });
  window.addEventListener("dragover", (e) => e.preventDefault());
  window.addEventListener("drop", (e) => { e.preventDefault(); inside = 0; hint(false); takeFiles(e.dataTransfer.files); });
  window.addEventListener("paste", (e) => takeFiles(e.clipboardData.files));
  $("file").addEventListener("change", (e) => { takeFiles(e.target.files); e.target.value = ""; });
  for (const id of ["choose", "another"]) $(id).addEventListener("click", () => $("file").click());
  $("camera").addEventListener("click", startCamera);
  $("camera-again").addEventListener("click", () => (state.stream ? stopCamera() : startCamera()));
}

const CODES = {
  Shell: `curl --data-binary @photo.jpg "${ORIGIN}/predict?threshold=0.5"`,
  Python: `import json, urllib.request\n\nimage = open("photo.jpg", "rb").read()\nanswer = urllib.request.urlopen("${ORIGIN}/predict", image)\nprint(json.load(answer)["annotations"])`,
};

function drawCodes() {
  replace($("codes"), Object.entries(CODES).map(([name, text]) => {
    const copy = h("button", { type: "button", class: "link", onclick: async () => { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } }, "Copy");
    return h("div", { class: "card" }, h("div", { class: "code-head" }, name, navigator.clipboard ? copy : null), h("pre", { tabindex: 0 }, text));
  }));
}

function start() {
  themes();
  const what = DATA.masks ? "boxes and masks" : "boxes";
  $("subtitle").textContent = `${plural(DATA.classes.length, "class", "classes")}, ${what}, on ${DATA.device}`;
  $("formats").textContent = `${DATA.formats.join(", ")}, up to ${megabytes(DATA.imageBytes)}. Images go to ${location.host} and nowhere else.`;
  const shapes = DATA.masks ? ["boxes", "masks", "labels"] : ["boxes", "labels"];
  replace($("checks"), shapes.map((name) => h("label", {}, h("input", { type: "checkbox", checked: state.show[name], onchange: (e) => { state.show[name] = e.target.checked; drawOverlay(); } }), name)));
  $("threshold").addEventListener("input", (e) => setThreshold(Number(e.target.value)));
  $("save-json").addEventListener("click", saveJson);
  $("save-picture").addEventListener("click", async () => save(await picturePng(), `${stem()}-detections.png`));
  watchFiles();
  watchPointer();
  new ResizeObserver(layOut).observe($("stage"));
  window.addEventListener("resize", layOut);
  drawCodes();
  setState("empty");
  const given = Number(ADDRESS.get("threshold") || state.threshold);
  setThreshold(given >= 0 && given <= 1 ? given : 0.5);
  document.documentElement.dataset.ready = "yes";
}

start();
