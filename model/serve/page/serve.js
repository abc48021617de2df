// Send a photo that is dropped, chosen or pasted to /predict, and show the answer.
// Names come from strangers, so they are set as text, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxBytes);
const maxMb = document.body.dataset.maxMb;
let pending = null; // the request under way

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

async function classify(file) {
  if (!file) return;
  if (pending) pending.abort();
  if (file.size > maxBytes) {
    showProblem(`${file.name}: larger than ${maxMb} MB.`);
    return;
  }
  const request = new AbortController();
  pending = request;
  showProgress(file);
  try {
    const response = await fetch("predict?explain=1", {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
      signal: request.signal,
    });
    const answer = await response.json().catch(() => ({}));
    if (pending !== request) return;
    if (response.ok) show(file, answer);
    else showProblem(`${file.name || "The photo"}: ${answer.error || response.statusText}`);
  } catch (error) {
    if (pending === request && error.name !== "AbortError") {
      showProblem("The server does not answer. Is it still running?");
    }
  } finally {
    if (pending === request) {
      pending = null;
      at("status").hidden = true;
      at("result").classList.remove("waiting");
    }
  }
}

function show(file, answer) {
  at("answer").textContent = answer.unknown
    ? `Unknown: perhaps ${answer.classes[0].class}`
    : `${answer.answer}`;
  at("file-name").textContent = `${file.name || "pasted photo"} · ${percent(answer.probability)}`;
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
  const image = document.createElement("img");
  image.src = similar.thumbnail.replace(/^\//, "");
  image.alt = `Training photo of ${similar.class}`;
  image.loading = "lazy";
  const label = element("span", similar.class, "class");
  label.classList.toggle("same", similar.class === bestClass);
  const source = element("span", `${similar.similarity.toFixed(2)} · ${similar.photo}`, "where");
  source.title = similar.photo;
  item.append(image, label, source);
  return item;
}

at("file").addEventListener("change", (event) => {
  classify(event.target.files[0]);
  event.target.value = ""; // so that the same photo can be chosen again
});
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
  const file = event.dataTransfer.files[0];
  if (file) classify(file);
  else showProblem("This is not a file. Save the photo first, then drop it here.");
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) classify(file);
});
for (const origin of document.querySelectorAll(".origin")) {
  origin.textContent = location.href.split(/[?#]/)[0].replace(/\/$/, "");
}
