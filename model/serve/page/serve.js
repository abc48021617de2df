// A photo that is dropped, chosen or pasted -> POST /predict -> the answer on the page.
// Names come from strangers: they are set as text, never as HTML.
"use strict";

const at = (id) => document.getElementById(id);
const maxBytes = Number(document.body.dataset.maxBytes);
const maxMb = document.body.dataset.maxMb;
let asking = null; // the request that is under way

const percent = (share) => {
  if (share >= 0.9995 && share < 1) return "> 99.9 %";
  if (share < 0.0005 && share > 0) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
};

function element(kind, text, ...classes) {
  const found = document.createElement(kind);
  found.textContent = text;
  found.classList.add(...classes);
  return found;
}

function complain(text) {
  at("problem").textContent = text;
  at("problem").hidden = false;
  at("status").hidden = true;
  at("result").hidden = true;
}

function wait(file) {
  at("problem").hidden = true;
  at("status").textContent = `Looking at ${file.name || "the photo"} …`;
  at("status").hidden = false;
  at("result").classList.add("waiting");
}

async function ask(file) {
  if (!file) return;
  if (asking) asking.abort();
  if (file.size > maxBytes) {
    complain(`${file.name}: larger than ${maxMb} MB, the most that is taken.`);
    return;
  }
  const mine = new AbortController();
  asking = mine;
  wait(file);
  try {
    const response = await fetch("predict?explain=1", {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
      signal: mine.signal,
    });
    const found = await response.json().catch(() => ({}));
    if (asking !== mine) return;
    if (response.ok) show(file, found);
    else complain(`${file.name || "The photo"}: ${found.error || response.statusText}`);
  } catch (error) {
    if (asking === mine && error.name !== "AbortError") {
      complain("The server does not answer. Is it still running?");
    }
  } finally {
    if (asking === mine) {
      asking = null;
      at("status").hidden = true;
      at("result").classList.remove("waiting");
    }
  }
}

function show(file, found) {
  at("answer").textContent = found.unknown
    ? `Unknown: perhaps ${found.classes[0].class}`
    : `${found.answer}`;
  at("file-name").textContent = `${file.name || "pasted photo"} · ${percent(found.probability)}`;
  at("classes").replaceChildren(...found.classes.map(classRow));
  showPicture(found);
  at("neighbours").replaceChildren(
    ...found.nearest.map((near) => neighbour(near, found.classes[0].class)),
  );
  at("nearest").hidden = !found.nearest.length;
  document.body.classList.add("answered");
  at("result").hidden = false;
}

function classRow(one) {
  const row = document.createElement("li");
  const name = element("div", "", "name");
  name.append(element("span", one.class), element("span", percent(one.probability), "share"));
  const bar = element("div", "", "bar");
  const filled = element("span", "");
  filled.style.width = `${100 * one.probability}%`;
  bar.append(filled);
  bar.setAttribute("aria-hidden", "true");
  row.append(name, bar);
  return row;
}

function showPicture(found) {
  at("seen").src = found.seen;
  at("switch").hidden = !found.looked_at;
  if (found.looked_at) {
    at("looked").src = found.looked_at;
    at("looked").alt = `The same; the brighter a place, the more it speaks for ${found.classes[0].class}`;
  }
  showHeat();
}

function showHeat() {
  at("looked").hidden = at("switch").hidden || !at("heat").checked;
}

function neighbour(near, answer) {
  const item = document.createElement("li");
  const image = document.createElement("img");
  image.src = near.thumbnail.replace(/^\//, "");
  image.alt = `Training photo of ${near.class}`;
  image.loading = "lazy";
  const label = element("span", near.class, "class");
  label.classList.toggle("same", near.class === answer);
  const where = element("span", `${near.similarity.toFixed(2)} · ${near.photo}`, "where");
  where.title = near.photo;
  item.append(image, label, where);
  return item;
}

at("file").addEventListener("change", (event) => {
  ask(event.target.files[0]);
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
  if (file) ask(file);
  else complain("That was no file. Save the photo first, then drop it here.");
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file) ask(file);
});
for (const origin of document.querySelectorAll(".origin")) {
  origin.textContent = location.href.split(/[?#]/)[0].replace(/\/$/, "");
}
