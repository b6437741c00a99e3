/* The image with its detections, at the size that fits, and what the pointer is on. */

const LARGEST = 4; /* times that a small image is enlarged */

function visibleItems() {
  return state.items.filter((item) => item.score >= state.threshold && !state.hidden.has(item.number));
}

function layOut() {
  if (!state.image) return;
  const { width, height } = state.image;
  const room = $("stage").clientWidth, high = Math.max(240, 0.74 * window.innerHeight);
  const scale = Math.min(room / width, high / height, LARGEST);
  $("frame").style.width = `${Math.round(width * scale)}px`;
  $("frame").style.height = `${Math.round(height * scale)}px`;
  $("frame").classList.toggle("pixels", scale >= 3);
  drawOverlay();
}

function drawOverlay() {
  const canvas = $("overlay");
  const box = $("frame").getBoundingClientRect(), dense = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * dense);
  canvas.height = Math.round(box.height * dense);
  if (!state.image || !state.image.done) return;
  const scale = canvas.width / state.image.width;
  drawItems(canvas.getContext("2d"), visibleItems(), { ...state.image, scale, unit: dense, show: state.show, chosen: state.chosen });
}

/* The smallest visible object under the pointer. */
function itemAt(event) {
  const box = $("overlay").getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * state.image.width;
  const y = ((event.clientY - box.top) / box.height) * state.image.height;
  const inside = ({ box: [left, top, w, h2] }) => x >= left && y >= top && x <= left + w && y <= top + h2;
  const area = ({ box }) => box[2] * box[3];
  return visibleItems().filter(inside).reduce((best, item) => (best && area(best) <= area(item) ? best : item), null);
}

function watchPointer() {
  const canvas = $("overlay");
  canvas.addEventListener("pointermove", (event) => {
    if (!state.image || !state.image.done) return;
    const item = itemAt(event);
    choose(item);
    if (item) tip.show(event, describe(item));
    else tip.hide();
  });
  canvas.addEventListener("pointerleave", () => { choose(null); tip.hide(); });
}

function describe(item) {
  return `${item.name} ${score(item.score)}\n${sizeOf(item)} pixels`;
}

const sizeOf = ({ box: [, , w, h2] }) => `${number(Math.round(w))} \u00d7 ${number(Math.round(h2))}`;

function choose(item) {
  if (state.chosen === item) return;
  state.chosen = item;
  for (const button of document.querySelectorAll("#list button")) {
    button.classList.toggle("chosen", Boolean(item) && button.dataset.id === String(item.id));
  }
  drawOverlay();
}

/* A PNG of the image with what is drawn over it. */
async function picturePng() {
  const { width, height } = state.image;
  const canvas = h("canvas", { width, height });
  const context = canvas.getContext("2d");
  if ($("frame").classList.contains("blank")) {
    context.fillStyle = "#3a3e44";
    context.fillRect(0, 0, width, height);
  } else context.drawImage($("picture"), 0, 0, width, height);
  const unit = Math.max(1, Math.max(width, height) / 1000);
  drawItems(context, visibleItems(), { width, height, scale: 1, unit, show: state.show, chosen: null });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}
