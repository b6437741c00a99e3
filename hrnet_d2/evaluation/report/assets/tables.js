/* Tables: classes, confusion, images of two runs. */

/* columns: name, value(row) to sort by, cell(row) to show, title; first: sorted by at the start. */
function sortableTable({ label, columns, rows, first = 0, descending = false, most = Infinity, rowClass }) {
  let column = first, down = descending, limit = most;
  const head = h("tr"), body = h("tbody");
  const more = h("button", { class: "plain wide", type: "button", onclick: () => { limit += most; draw(); } }, "Show more");
  const compare = (a, b) => {
    const [x, y] = [columns[column].value(a), columns[column].value(b)];
    if (x === y) return 0;
    if (x === null || x === undefined) return 1; /* what is undefined comes last, either way */
    if (y === null || y === undefined) return -1;
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return down ? -order : order;
  };
  function draw() {
    const sorted = rows.slice().sort(compare);
    [...head.children].forEach((cell, i) => {
      if (i === column) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    });
    replace(body, sorted.slice(0, limit).map((row) => h("tr", { class: rowClass ? rowClass(row) : null }, columns.map((c) => h("td", {}, c.cell(row))))));
    more.hidden = sorted.length <= limit;
  }
  columns.forEach((c, i) => {
    const sort = () => {
      down = i === column ? !down : i > 0;
      column = i;
      draw();
    };
    head.append(h("th", { scope: "col", title: c.title }, h("button", { type: "button", onclick: sort }, c.name)));
  });
  draw();
  return h("div", {}, h("div", { class: "table", tabindex: 0, role: "region", "aria-label": label }, h("table", {}, h("thead", {}, head), body)), more);
}

function classTable() {
  const tasks = run(), other = otherRun();
  const rows = DATA.classes.map((name, k) => ({ k, name, objects: DATA.objects[k], ...tasks.byClass[k], before: other ? other.byClass[k].AP : null }));
  const number1 = (name, title) => ({ name: NAMES[name] || name, title, value: (r) => r[name], cell: (r) => percent(r[name]) });
  const columns = [
    { name: "class", value: (r) => r.name, cell: (r) => h("button", { type: "button", class: "link", onclick: () => choose({ cls: state.cls === r.k ? -1 : r.k, shown: 24 }) }, r.name) },
    { name: "objects", value: (r) => r.objects, cell: (r) => number(r.objects) },
    { name: "AP", value: (r) => r.AP, cell: (r) => [h("span", { class: "meter", "aria-hidden": "true" }, h("i", { style: { width: `${100 * (r.AP || 0)}%` } })), h("span", { class: "measured" }, percent(r.AP))] },
    other && { name: "change", title: "AP minus that of the other run", value: (r) => (isNumber(r.AP) && isNumber(r.before) ? r.AP - r.before : null), cell: (r) => change(r.AP, r.before) },
    number1("AP50"), number1("AP75"), number1("APs", "AP of objects below 32\u00b2 pixels"), number1("APm", "32\u00b2 to 96\u00b2 pixels"),
    number1("APl", "above 96\u00b2 pixels"), number1("AR100", "average recall"),
    { name: "best F1", title: "with the threshold of this class alone", value: (r) => r.f1, cell: (r) => percent(r.f1) },
    { name: "at score", title: "the threshold with the best F1", value: (r) => r.threshold, cell: (r) => score(r.threshold) },
  ].filter(Boolean);
  replace($("class-table"), sortableTable({ label: "Classes", columns, rows, first: 2, most: 100, rowClass: (r) => (r.k === state.cls ? "chosen" : null) }));
}

const MATRIX = 14; /* classes at most, and the background */

function confusionTable() {
  const K = DATA.classes.length, tasks = run(), counts = new Map();
  const key = (row, column) => row * (K + 1) + column;
  const add = (row, column, n) => counts.set(key(row, column), (counts.get(key(row, column)) || 0) + n);
  const matched = new Array(K).fill(0);
  for (const [row, column, bin, n] of tasks.confusion) {
    if (bin < state.step) continue;
    add(row, column, n);
    if (row < K) matched[row] += n;
  }
  DATA.objects.forEach((n, k) => add(k, K, n - matched[k]));
  const get = (row, column) => counts.get(key(row, column)) || 0;
  let chosen = DATA.classes.map((_, k) => k);
  if (K > MATRIX) {
    const weight = new Array(K).fill(0);
    counts.forEach((n, at) => {
      const row = Math.floor(at / (K + 1)), column = at % (K + 1);
      if (row !== column && row < K && column < K) { weight[row] += n; weight[column] += n; }
    });
    const rest = chosen.filter((k) => k !== state.cls).sort((a, b) => weight[b] - weight[a]);
    chosen = [...(state.cls < 0 ? [] : [state.cls]), ...rest].slice(0, MATRIX);
  }
  const axis = [...chosen, K];
  const name = (k) => (k === K ? "background" : className(k));
  const rows = axis.map((row) => {
    const total = row === K ? sum(axis.map((c) => get(row, c))) : DATA.objects[row];
    return h("tr", {}, h("th", { scope: "row", title: name(row) }, name(row)), axis.map((column) => {
      if (row === K && column === K) return h("td");
      const n = get(row, column), share = total ? n / total : 0;
      return h("td", { class: row === column ? "diagonal" : null, style: n ? { background: `rgba(var(--shade), ${(0.08 + 0.67 * share).toFixed(3)})` } : {},
        title: `${name(row)} detected as ${name(column)}: ${number(n)} (${percent(share)}\u00a0%)` }, n ? number(n) : "\u00b7");
    }));
  });
  const note = K > MATRIX ? h("p", { class: "lead" }, `The ${MATRIX} classes that are confused most, of ${number(K)}.`) : null;
  replace($("confusion"), note, h("table", { class: "matrix" }, h("thead", {}, h("tr", {}, h("th"), axis.map((k) => h("th", { scope: "col", title: name(k) }, name(k))))), h("tbody", {}, rows)));
}

function comparisonTable() {
  const one = run(), other = otherRun();
  $("comparison").hidden = !other;
  if (!other) return;
  const told = DATA.comparison[state.task];
  $("comparison-words").textContent =
    `Mistakes (false detections and objects not found), each run at its own threshold: ${ONE.name} at ${score(one.threshold)}, ` +
    `${DATA.runs[1].name} at ${score(other.threshold)}. Fewer in ${plural(told.images.better, "image")}, more in ${number(told.images.worse)}, ` +
    `as many in ${number(told.images.same)}; ${plural(told.objects.gained, "object")} newly found, ${number(told.objects.lost)} no longer.`;
  const pictured = new Map(DATA.gallery.map((entry) => [entry.image, entry]));
  const rows = DATA.images.map((name, i) => {
    const mistakes = [one, other].map((tasks) => tasks.byImage.false[i] + tasks.byImage.lost[i]);
    return { i, name, now: mistakes[0], before: mistakes[1], change: mistakes[0] - mistakes[1], false: one.byImage.false[i], lost: one.byImage.lost[i] };
  }).filter((row) => row.now || row.before);
  const columns = [
    { name: "image", value: (r) => r.name, cell: (r) => (pictured.has(r.i) ? h("button", { type: "button", class: "link", onclick: () => openViewer(pictured.get(r.i)) }, r.name) : r.name) },
    { name: "change", value: (r) => r.change, cell: (r) => h("span", { class: r.change < 0 ? "up" : r.change > 0 ? "down" : "" }, (r.change > 0 ? "+" : "") + number(r.change)) },
    { name: ONE.name, value: (r) => r.now, cell: (r) => number(r.now) },
    { name: DATA.runs[1].name, value: (r) => r.before, cell: (r) => number(r.before) },
    { name: "false now", value: (r) => r.false, cell: (r) => number(r.false) },
    { name: "not found now", value: (r) => r.lost, cell: (r) => number(r.lost) },
  ];
  replace($("comparison-table"), sortableTable({ label: "Images", columns, rows, first: 1, most: 50 }));
}
