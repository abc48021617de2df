// Send photos that are dropped, chosen, pasted or seen by the camera to /predict, one
// after another, and show the answers.
// Names may come from anybody, so they are set as text, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxBytes);
const maxMb = document.body.dataset.maxMb;
const LIVE_MS = 500; // from one photo of the camera to the next
const LIVE_PX = 640; // their shorter side, at most
let pending = null; // the request for the photo that is shown
let listing = null; // ends the requests for a list of photos
let shown = null; // the photo that is shown
let camera = null; // its stream

const percent = (share) => {
  if (share >= 0.9995 && share < 1) return "> 99.9 %";
  if (share < 0.0005 && share > 0) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
};

function element(kind, text, ...classes) {
  const node = document.createElement(kind);
  node.textContent = text;
  node.classList.add(...classes);
  return node;
}

function showProblem(text) {
  at("problem").textContent = text;
  at("problem").hidden = false;
  at("status").hidden = true;
  at("result").hidden = true;
}

function showProgress(file) {
  at("problem").hidden = true;
  at("status").textContent = `Classifying ${file.name || "the photo"} …`;
  at("status").hidden = false;
  at("result").classList.add("waiting");
}

async function post(address, file, signal) {
  if (file.size > maxBytes) throw new Error(`larger than ${maxMb} MB.`);
  const response = await fetch(address, {
    method: "POST",
    body: file,
    headers: { "Content-Type": "application/octet-stream" },
    signal,
  }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

async function classify(file) {
  if (pending) pending.abort();
  const request = new AbortController();
  pending = request;
  showProgress(file);
  try {
    const answer = await post("predict?explain=1", file, request.signal);
    if (pending === request) show(file, answer);
  } catch (error) {
    if (pending === request) showProblem(`${file.name || "The photo"}: ${error.message}`);
  } finally {
    if (pending === request) {
      pending = null;
      at("status").hidden = true;
      at("result").classList.remove("waiting");
    }
  }
}

async function classifyAll(files) {
  stopCamera();
  if (listing) listing.abort();
  for (const image of at("list").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  at("list").replaceChildren();
  at("list").hidden = files.length < 2;
  if (files.length === 1) classify(files[0]);
  if (files.length < 2) return;
  if (pending) pending.abort();
  pending = null;
  for (const id of ["problem", "status", "result"]) at(id).hidden = true;
  const request = new AbortController();
  listing = request;
  const rows = files.map(listRow);
  at("list").append(...rows.map(([item]) => item));
  for (const [number, [, answerText]] of rows.entries()) {
    try {
      const answer = await post("predict?top=1", files[number], request.signal);
      answerText.textContent = `${headline(answer)} · ${percent(answer.probability)}`;
    } catch (error) {
      if (request.signal.aborted) return;
      answerText.textContent = error.message;
      answerText.classList.add("bad");
    }
  }
}

function listRow(file) {
  const item = document.createElement("li");
  const button = element("button", "");
  const image = document.createElement("img");
  const answerText = element("span", "waiting …", "said");
  button.type = "button";
  image.src = URL.createObjectURL(file);
  image.alt = "";
  image.loading = "lazy";
  button.append(image, element("span", file.name, "name"), answerText);
  button.addEventListener("click", () => classify(file));
  item.append(button);
  return [item, answerText];
}

function headline(answer) {
  const best = answer.classes[0].class;
  if (answer.stranger && answer.stranger.is_stranger) return `None of these? Otherwise ${best}`;
  return answer.unknown ? `Unknown: perhaps ${best}` : answer.answer;
}

function show(file, answer) {
  at("answer").textContent = headline(answer);
  at("file-name").textContent = `${file.name || "pasted photo"} · ${percent(answer.probability)}`;
  if (answer.stranger && answer.stranger.is_stranger) {
    const { score, threshold } = answer.stranger;
    at("file-name").textContent += ` · unlike the training photos: stranger score ${score.toFixed(2)}, the limit is ${threshold.toFixed(2)}`;
  }
  if (shown) URL.revokeObjectURL(shown.url);
  shown = { file, url: URL.createObjectURL(file), seen: answer.seen };
  if (at("correction")) {
    at("label").value = answer.classes[0].class;
    at("kept").textContent = "";
  }
  at("classes").replaceChildren(...answer.classes.map(classRow));
  showPicture(answer);
  at("neighbours").replaceChildren(
    ...answer.nearest.map((similar) => trainingPhoto(similar, answer.classes[0].class)),
  );
  at("nearest").hidden = !answer.nearest.length;
  document.body.classList.add("answered");
  at("result").hidden = false;
}

function classRow(entry) {
  const row = document.createElement("li");
  const name = element("div", "", "name");
  name.append(element("span", entry.class), element("span", percent(entry.probability), "share"));
  const bar = element("div", "", "bar");
  const filled = element("span", "");
  filled.style.width = `${100 * entry.probability}%`;
  bar.append(filled);
  bar.setAttribute("aria-hidden", "true");
  row.append(name, bar);
  return row;
}

function showPicture(answer) {
  at("seen").src = answer.seen;
  at("switch").hidden = !answer.looked_at;
  if (answer.looked_at) {
    at("looked").src = answer.looked_at;
    at("looked").alt = `The same photo; brighter places count more for ${answer.classes[0].class}`;
  }
  showHeat();
}

function showHeat() {
  at("looked").hidden = at("switch").hidden || !at("heat").checked;
}

function trainingPhoto(similar, bestClass) {
  const item = document.createElement("li");
  const button = element("button", "");
  const image = document.createElement("img");
  button.type = "button";
  image.src = similar.thumbnail.replace(/^\//, "");
  image.alt = `Training photo of ${similar.class}`;
  image.loading = "lazy";
  const label = element("span", similar.class, "class");
  label.classList.toggle("same", similar.class === bestClass);
  const source = element("span", `${similar.similarity.toFixed(2)} · ${similar.photo}`, "where");
  source.title = similar.photo;
  button.append(image);
  button.addEventListener("click", () => enlarge(`${image.src}?large`, image.alt));
  item.append(button, label, source);
  return item;
}

// If the browser cannot show the photo's format, show `otherwise`: what the network sees.
function enlarge(url, text, otherwise = "") {
  at("large-photo").onerror = () => {
    at("large-photo").onerror = null;
    if (otherwise) at("large-photo").src = otherwise;
  };
  at("large-photo").src = url;
  at("large-photo").alt = text;
  at("large").showModal();
}

async function collect(event) {
  event.preventDefault();
  const photo = shown;
  const label = at("label").value;
  at("kept").textContent = "sending …";
  try {
    await post(`collect?label=${encodeURIComponent(label)}`, photo.file);
    if (shown === photo) at("kept").textContent = `saved as ${label}`;
  } catch (error) {
    if (shown === photo) at("kept").textContent = error.message;
  }
}

async function startCamera() {
  try {
    const video = { facingMode: "environment" };
    camera = await navigator.mediaDevices.getUserMedia({ video });
  } catch (error) {
    showProblem(`The camera cannot be used: ${error.message}. Choose a photo, or allow the camera.`);
    return;
  }
  for (const request of [pending, listing]) if (request) request.abort();
  pending = null;
  for (const id of ["problem", "status", "list", "result", "camera"]) at(id).hidden = true;
  at("live-answer").textContent = "";
  at("live").hidden = false;
  at("view").srcObject = camera;
  await at("view").play().catch(() => {});
  watch(camera);
}

// The next photo is sent only when the last one is answered, so none pile up.
async function watch(stream) {
  const canvas = document.createElement("canvas");
  while (camera === stream && stream.active) {
    const start = performance.now();
    stream.photo = await captureFrame(canvas);
    try {
      const answer = stream.photo && (await post("predict?top=1", stream.photo));
      if (answer && camera === stream) {
        at("live-answer").textContent = `${headline(answer)} · ${percent(answer.probability)}`;
      }
    } catch (error) {
      if (camera === stream) at("live-answer").textContent = error.message;
    }
    const rest = LIVE_MS - (performance.now() - start);
    await new Promise((done) => setTimeout(done, Math.max(rest, 0)));
  }
  if (camera === stream) stopCamera(); // unplugged, or no longer permitted
}

async function captureFrame(canvas) {
  const { videoWidth: width, videoHeight: height } = at("view");
  if (!width) return null;
  const factor = Math.min(1, LIVE_PX / Math.min(width, height));
  canvas.width = Math.round(width * factor);
  canvas.height = Math.round(height * factor);
  canvas.getContext("2d").drawImage(at("view"), 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  return blob && new File([blob], "camera.jpg");
}

function stopCamera() {
  const stream = camera;
  camera = null;
  at("live").hidden = true;
  at("camera").hidden = !hasCamera;
  if (stream) for (const track of stream.getTracks()) track.stop();
  return stream && stream.photo;
}

for (const id of ["file", "snapshot"]) {
  at(id).addEventListener("change", (event) => {
    classifyAll([...event.target.files]);
    event.target.value = ""; // so that the same photo can be chosen again
  });
}
// For a server on another computer, browsers allow the camera only over HTTPS.
const hasCamera = Boolean(navigator.mediaDevices && navigator.mediaDevices.getUserMedia);
at("camera").hidden = !hasCamera;
for (const id of ["snap", "snapshot"]) at(id).hidden = hasCamera;
at("camera").addEventListener("click", startCamera);
at("stop").addEventListener("click", () => {
  const photo = stopCamera();
  if (photo) classify(photo);
});
at("enlarge").addEventListener("click", () => {
  enlarge(shown.url, at("file-name").textContent, shown.seen);
});
at("large").addEventListener("click", () => at("large").close());
if (at("correction")) at("correction").addEventListener("submit", collect);
at("heat").addEventListener("change", showHeat);
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (files.length) classifyAll(files);
  else showProblem("This is not a file. Save the photo first, then drop it here.");
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) classifyAll(files);
});
for (const origin of document.querySelectorAll(".origin")) {
  origin.textContent = location.href.split(/[?#]/)[0].replace(/\/$/, "");
}
