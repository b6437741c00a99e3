/* The gallery: images with what is annotated and what was detected, drawn over thumbnails. */

const CORRECT = -1, IGNORED = -2, MISSED = DATA.kinds.indexOf("missed");
const kindColor = (kind) => `var(--${kind < 0 ? "correct" : DATA.kinds[kind]})`;
const VIEWS = { worst: "Worst images", confident: "Confident mistakes", missed: "Missed objects" };
if (DATA.runs.length > 1) VIEWS.changed = "Most changed";

const outlineOf = (item) => (state.task === "segm" && item.outline && item.outline.length ? item.outline : null);
const isFound = (object, r) => object.runs[r][state.task][0] >= threshold();
const isMissed = (object, r) => !object.crowd && !isFound(object, r) && object.runs[r][state.task][1] < threshold();
const detectionsOf = (entry, r) => entry.runs[r].filter((d) => d.score >= threshold() && state.task in d.kind);

function mistakesOf(entry, r = 0) {
  const kinds = new Array(DATA.kinds.length).fill(0);
  for (const d of detectionsOf(entry, r)) if (d.kind[state.task] >= 0) kinds[d.kind[state.task]]++;
  kinds[MISSED] = entry.objects.filter((o) => isMissed(o, r)).length;
  return kinds;
}

/* False detections and objects not found, over all classes; exact counts at the run's own threshold
   are in the table of images. */
const mistakeCount = (entry, r = 0) =>
  detectionsOf(entry, r).filter((d) => d.kind[state.task] >= 0).length + entry.objects.filter((o) => !o.crowd && !isFound(o, r)).length;

function shape(item, className, color) {
  const common = { class: `shape ${className}`, style: color ? { stroke: color, fill: className.includes("missing") ? color : "none" } : {} };
  const outline = outlineOf(item);
  if (!outline) {
    const [x, y, width, height] = item.box;
    return s("rect", { ...common, x, y, width, height });
  }
  return s("path", { ...common, d: outline.map((p) => `M${p.map((v, i) => (i % 2 ? v : `${i ? "L" : ""}${v}`)).join(" ")}Z`).join("") });
}

const meantBy = (d) => (d.meant && state.task in d.meant ? d.meant[state.task] : null);
const involves = (item) => state.cls < 0 || item.class === state.cls || meantBy(item) === state.cls;

function boxIou(a, b) {
  const side = (i) => Math.max(0, Math.min(a[i] + a[i + 2], b[i] + b[i + 2]) - Math.max(a[i], b[i]));
  const inside = side(0) * side(1);
  return inside ? inside / (a[2] * a[3] + b[2] * b[3] - inside) : 0;
}

/* Drawn: crop [x, y, width, height] of the thumbnail; only: the item that matters, or null. */
function drawing(entry, { r = 0, crop, only = null, labels = false, truth = true, detections = true }) {
  const [x, y, width, height] = crop || [0, 0, entry.width, entry.height];
  const svg = s("svg", { class: "drawing", viewBox: `${x} ${y} ${width} ${height}`, role: "img", "aria-label": describe(entry, r) });
  if (entry.picture >= 0) svg.append(s("image", { href: PICTURES[entry.picture], width: entry.width, height: entry.height, preserveAspectRatio: "none" }));
  else svg.append(s("rect", { width: entry.width, height: entry.height, style: { fill: "#3a3e44" } }));
  const tags = [];
  const add = (item, className, color, text) => {
    const away = only ? item !== only && !(item.runs && boxIou(item.box, only.box) >= 0.1) : !involves(item);
    const dimmed = away ? " dim" : "";
    svg.append(shape(item, "under" + dimmed), shape(item, className + dimmed, color));
    if (labels && !dimmed) tags.push(s("text", { class: "tag", x: item.box[0] + 2, y: Math.max(item.box[1] - labels / 3, y + labels), style: { "font-size": `${labels}px`, "stroke-width": `${labels / 4}px` } }, text));
  };
  if (truth) for (const o of entry.objects) {
    const missed = isMissed(o, r);
    if (o === only || !missed) add(o, o.crowd ? "crowd" : "truth", null, detections ? "" : className(o.class));
  }
  if (detections) for (const d of detectionsOf(entry, r)) {
    const kind = d.kind[state.task];
    if (kind === IGNORED) continue;
    if (!only && state.kind !== "" && kind !== Number(state.kind)) continue;
    add(d, "", kindColor(kind), `${className(d.class)} ${score(d.score)}`);
  }
  if (truth && (only || state.kind === "" || Number(state.kind) === MISSED)) {
    for (const o of entry.objects) if (isMissed(o, r)) add(o, "missing", kindColor(MISSED), className(o.class));
  }
  svg.append(...tags);
  return svg;
}

function describe(entry, r) {
  const told = mistakesOf(entry, r).map((n, kind) => (n ? `${n} ${DATA.kinds[kind]}` : "")).filter(Boolean).join(", ");
  return `${DATA.images[entry.image]}: ${told || "no mistake"}`;
}

/* The part of an image around a box, in the shape of a card. */
function around(entry, [x, y, width, height]) {
  let h2 = Math.max(height * 1.9, (width * 1.9 * 3) / 4, 90);
  let w2 = (h2 * 4) / 3;
  if (w2 > entry.width && h2 > entry.height) [w2, h2] = [entry.width, entry.height];
  const clamp = (v, size, all) => (size >= all ? (all - size) / 2 : Math.min(Math.max(v, 0), all - size));
  return [clamp(x + width / 2 - w2 / 2, w2, entry.width), clamp(y + height / 2 - h2 / 2, h2, entry.height), w2, h2];
}

function card(entry, options, title, text) {
  return h("figure", {}, h("button", { type: "button", "aria-label": `Enlarge ${DATA.images[entry.image]}`, onclick: () => openViewer(entry) }, drawing(entry, options)),
    h("figcaption", {}, title, h("small", {}, text)));
}

/* Cards of the chosen view: the most interesting ones first. */
function cardsOf() {
  const kind = state.kind === "" ? null : Number(state.kind);
  const items = [];
  for (const entry of DATA.gallery) {
    if (state.view === "worst" || state.view === "changed") {
      const kinds = mistakesOf(entry);
      const involved = state.cls < 0 || entry.objects.some((o) => involves(o) && (isMissed(o, 0) || !isFound(o, 0))) || detectionsOf(entry, 0).some((d) => involves(d) && d.kind[state.task] >= 0);
      const count = kind === null ? mistakeCount(entry) : kinds[kind];
      if (state.view === "worst" && count && involved) {
        items.push({ rank: count, make: () => card(entry, {}, plural(count, kind === null ? "mistake" : `${DATA.kinds[kind]} mistake`), DATA.images[entry.image]) });
      } else if (state.view === "changed" && state.task in DATA.runs[1].tasks) {
        const delta = mistakeCount(entry) - mistakeCount(entry, 1);
        if (delta && (state.cls < 0 || entry.objects.some(involves))) {
          items.push({ rank: Math.abs(delta), make: () => card(entry, {}, h("span", { class: delta < 0 ? "up" : "down" }, `${plural(Math.abs(delta), "mistake")} ${delta < 0 ? "fewer" : "more"}`), DATA.images[entry.image]) });
        }
      }
    } else if (state.view === "confident") {
      for (const d of detectionsOf(entry, 0)) {
        const k = d.kind[state.task];
        if (k < 0 || !involves(d) || (kind !== null && k !== kind)) continue;
        const meant = meantBy(d);
        const text = meant === null || meant === d.class ? DATA.kinds[k] : `${DATA.kinds[k]}: it is ${className(meant)}`;
        items.push({ rank: d.score, make: () => card(entry, { crop: around(entry, d.box), only: d }, [dot(k), `${className(d.class)} ${score(d.score)}`], `${text} \u00b7 ${DATA.images[entry.image]}`) });
      }
    } else {
      for (const o of entry.objects) {
        if (!isMissed(o, 0) || !involves(o)) continue;
        const found = o.runs.length > 1 && isFound(o, 1) ? " \u00b7 the other run finds it" : "";
        items.push({ rank: o.box[2] * o.box[3], make: () => card(entry, { crop: around(entry, o.box), only: o }, [dot(MISSED), className(o.class)], `missed${found} \u00b7 ${DATA.images[entry.image]}`) });
      }
    }
  }
  return items.sort((a, b) => b.rank - a.rank);
}

const dot = (kind) => h("span", { class: "dot", style: { background: kindColor(kind) }, "aria-hidden": "true" });

function drawGallery() {
  const items = cardsOf();
  const shown = Math.min(state.shown, items.length);
  replace($("cards"), items.slice(0, shown).map((item) => item.make()));
  const what = { worst: "the images with the most mistakes first", changed: "the largest difference first", confident: "the highest score first", missed: "the largest object first" }[state.view];
  const where = state.cls < 0 ? "" : `, ${className(state.cls)}`;
  $("gallery-words").textContent = items.length
    ? `${number(shown)} of ${number(items.length)}${where}, ${what}, at scores from ${score(threshold())}. The gallery has ${plural(DATA.gallery.length, "image")} of ${number(DATA.images.length)}.`
    : `Nothing to show${where} at scores from ${score(threshold())}.`;
  $("more").hidden = shown >= items.length;
  document.querySelectorAll("#gallery-controls [data-view]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.view === state.view)));
  $("kind-choice").value = state.kind;
  $("kind-choice").disabled = state.view === "missed";
}

function galleryControls() {
  const kinds = h("select", { id: "kind-choice", onchange: (e) => choose({ kind: e.target.value, shown: 24 }) },
    h("option", { value: "" }, "all"), DATA.kinds.map((kind, i) => h("option", { value: i }, kind)));
  replace($("gallery-controls"),
    h("div", { class: "segments", role: "group", "aria-label": "What the gallery shows" },
      Object.entries(VIEWS).map(([view, words]) => h("button", { type: "button", "data-view": view, onclick: () => choose({ view, shown: 24 }) }, words))),
    h("label", {}, "Kind", kinds), classChoice("gallery-class"));
  replace($("legend"), h("span", {}, dot(CORRECT), "correct"), DATA.kinds.map((kind, i) => h("span", {}, dot(i), kind)), h("span", {}, "dashed white: annotated"));
  $("more").addEventListener("click", () => choose({ shown: state.shown + 24 }));
}

/* The enlarged image: annotations and each run's detections side by side. */
function openViewer(entry) {
  const viewer = $("viewer");
  const size = Math.max(entry.width, entry.height) / 42; /* small images are enlarged, and their text with them */
  const sides = [h("div", {}, h("p", {}, "Annotated"), drawing(entry, { labels: size, detections: false }))];
  DATA.runs.forEach((one, r) => {
    if (!(state.task in one.tasks)) return;
    sides.push(h("div", {}, h("p", {}, `${one.name}: ${describe(entry, r).slice(DATA.images[entry.image].length + 2)}`), drawing(entry, { r, labels: size })));
  });
  replace(viewer,
    h("div", { class: "viewer-head" }, h("h3", {}, DATA.images[entry.image]), h("button", { class: "plain", type: "button", onclick: () => viewer.close() }, "Close")),
    h("div", { class: "sides" }, sides));
  viewer.showModal();
}
