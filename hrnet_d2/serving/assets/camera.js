/* The camera: one image after the other, as fast as the server answers. */

const CAMERA = { video: { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } }, audio: false };
const PAUSE = 1000; /* milliseconds after a server that is busy */

const later = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function startCamera() {
  stopCamera();
  fail(null);
  if (!navigator.mediaDevices) {
    fail("No camera", "Browsers give the camera to pages at https:// or localhost only. Open this page under http://localhost, or behind a proxy with https.");
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(CAMERA);
  } catch (error) {
    const denied = error.name === "NotAllowedError";
    fail("No camera", denied ? "The browser was not allowed to use the camera: allow it in the address bar." : "The browser found no camera that it can use.");
    return;
  }
  state.stream = stream;
  const video = $("video");
  video.srcObject = stream;
  video.hidden = false;
  await video.play();
  cameraButtons();
  let seen = null;
  while (state.stream === stream) {
    if (document.hidden) { await later(PAUSE); continue; }
    const frame = await capture(video);
    if (state.stream !== stream || !frame) break;
    const answer = await detect(new File([frame], "camera.jpg", { type: frame.type }), { live: true });
    if (answer === "busy") await later(PAUSE);
    else if (answer !== "done") break;
    const now = performance.now();
    if (seen) state.rate = 1000 / (now - seen);
    seen = now;
  }
  if (state.stream === stream) stopCamera();
}

function capture(video) {
  const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
  canvas.getContext("2d").drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

function stopCamera() {
  if (state.stream) state.stream.getTracks().forEach((track) => track.stop());
  state.stream = state.rate = null;
  $("video").srcObject = null;
  $("video").hidden = true;
  cameraButtons();
}

function cameraButtons() {
  $("camera-again").textContent = state.stream ? "Stop the camera" : "Use the camera";
}
