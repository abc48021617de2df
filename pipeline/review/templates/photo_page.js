"use strict";
// Show the photos of a page, enlarge them, and keep the labels that a person gives them.
const photoPage = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const made = (tag, className, text) => Object.assign(document.createElement(tag), { className, textContent: text ?? "" });

  // The page holds the bytes of each photo once, and decodes them shortly before it is visible.
  const pictures = read("page-photos");
  const show = (image) => {
    const source = pictures[image.dataset.photo];
    if (source) image.src = source;
    else image.replaceWith(made("span", "muted none", "no picture"));
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      show(entry.target);
    }
  }, { rootMargin: "600px" });
  const watch = (root) => {
    for (const image of root.querySelectorAll("img[data-photo]")) {
      if (!image.closest("[data-review]")) Object.assign(image, { tabIndex: 0, role: "button" });
      near.observe(image);
    }
  };
  addEventListener("beforeprint", () => document.querySelectorAll("img[data-photo]:not([src])").forEach(show));

  const enlarged = document.getElementById("enlarged");
  const enlarge = (image) => {
    const card = image.closest("[data-review]");
    enlarged.querySelector("img").src = pictures[image.dataset.photo] ?? "";
    enlarged.querySelector("img").alt = image.alt;
    document.getElementById("enlarged-title").textContent = image.alt;
    document.getElementById("enlarged-answers").replaceChildren(...(card ? [controls(Number(card.dataset.review))] : []));
    if (!enlarged.open) enlarged.showModal();
  };
  document.getElementById("enlarged-close").addEventListener("click", () => enlarged.close());
  enlarged.addEventListener("click", (event) => { if (event.target === enlarged) enlarged.close(); });
  enlarged.addEventListener("close", () => current?.focus({ preventScroll: true }));

  // An answer is "=" and the name of a class, or "-" for a photo to leave out.
  const review = read("page-review") ?? { photos: [], classes: [] };
  const answers = new Map();
  const history = [];
  const cards = [...document.querySelectorAll("[data-review]")];
  const cardsOf = new Map();
  for (const card of cards) {
    const number = Number(card.dataset.review);
    cardsOf.set(number, [...(cardsOf.get(number) ?? []), card]);
  }
  let current = null;

  // The browser may refuse to store anything.
  const stored = () => {
    try { return new Map(JSON.parse(localStorage.getItem(`graft ${review.key}`) ?? "[]")); } catch { return new Map(); }
  };
  const store = (number) => {
    const all = stored(); // another tab may have added some
    const [path] = review.photos[number];
    if (answers.has(number)) all.set(path, answers.get(number));
    else all.delete(path);
    try { localStorage.setItem(`graft ${review.key}`, JSON.stringify([...all])); } catch { /* kept until the page is closed */ }
  };

  const controls = (number) => {
    const [path, label, , suggested] = review.photos[number];
    const box = made("div", "answers");
    box.dataset.answers = number;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `answer for ${path}`);
    const button = (text, value) => box.append(Object.assign(made("button", "", text), { type: "button", value }));
    if (label) button("right", `=${label}`);
    if (suggested && suggested !== label && review.classes.includes(suggested)) button(`is: ${suggested}`, `=${suggested}`);
    const select = made("select");
    select.setAttribute("aria-label", `class of ${path}`);
    box.append(select);
    button("leave out", "-");
    mark(box, answers.get(number));
    return box;
  };
  const option = (name) => new Option(name ? name.slice(1) : "is: …", name);
  const mark = (box, answer) => {
    let isButton = false;
    for (const button of box.querySelectorAll("button")) {
      const on = button.value === answer;
      isButton ||= on;
      button.setAttribute("aria-pressed", String(on));
    }
    const select = box.querySelector("select");
    const chosen = answer && !isButton ? answer : "";
    if (![...select.options].some((known) => known.value === chosen)) select.add(option(chosen));
    select.value = chosen;
    select.classList.toggle("chosen", chosen !== "");
  };
  // Filling thousands of lists with hundreds of classes takes long: each is filled on first use.
  const fill = (event) => {
    const select = event.target.closest?.(".answers select");
    if (!select || select.options.length > review.classes.length) return;
    const chosen = select.value;
    select.replaceChildren(...["", ...review.classes.map((name) => `=${name}`)].map(option));
    select.value = chosen;
  };
  for (const kind of ["pointerdown", "focusin"]) document.addEventListener(kind, fill);

  const count = () => {
    document.getElementById("review-count").textContent = `${answers.size} of ${review.photos.length} answered, ${lines().length} to save`;
  };
  const refresh = (number) => {
    for (const card of cardsOf.get(number) ?? []) {
      card.classList.toggle("answered", answers.has(number));
      mark(card.querySelector(".answers"), answers.get(number));
    }
    const box = enlarged.querySelector(".answers");
    if (Number(box?.dataset.answers) === number) mark(box, answers.get(number));
    count();
  };
  const setAnswer = (number, answer) => {
    if (answer === undefined) answers.delete(number);
    else answers.set(number, answer);
    store(number);
    refresh(number);
  };
  const giveAnswer = (number, answer) => {
    history.push([number, answers.get(number)]);
    setAnswer(number, answer);
  };

  const go = (card) => {
    if (!card) return;
    current = card;
    if (enlarged.open) enlarge(card.querySelector("img[data-photo]") ?? card);
    else card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest", behavior: "instant" });
  };
  const step = (by) => go(current ? cards[cards.indexOf(current) + by] : cards.find((card) => card.getBoundingClientRect().bottom > 0));
  const goToNext = () => {
    const start = cards.indexOf(current) + 1;
    go([...cards.slice(start), ...cards.slice(0, start)].find((card) => !answers.has(Number(card.dataset.review))));
  };
  const undo = () => {
    const last = history.pop() ?? (current && [Number(current.dataset.review), undefined]);
    if (!last) return;
    setAnswer(...last);
    go(cardsOf.get(last[0])?.[0]);
  };
  const answerOf = (key, [, label, , suggested]) => {
    if (key === "r") return `=${label || suggested}`;
    if (key === "i" && review.classes.includes(suggested)) return `=${suggested}`;
    if (key === "x") return "-";
    const name = /^[1-9]$/.test(key) ? review.classes[key - 1] : undefined;
    return name === undefined ? undefined : `=${name}`;
  };
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || target.closest("select, input, textarea")) return;
    const dialog = document.querySelector("dialog[open]");
    if (key === "Enter") {
      const image = target.matches("img[data-photo]") ? target : target.matches("[data-review]") && target.querySelector("img[data-photo]");
      if (!image) return;
      event.preventDefault(); // otherwise the key also presses the button that gets the focus
      enlarge(image);
      return;
    }
    if (!cards.length || (dialog && dialog !== enlarged)) return;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ...(target.closest("[data-review], #enlarged") ? { ArrowDown: 1, ArrowUp: -1 } : {}) };
    if (key in steps) step(steps[key]);
    else if (key === "u") undo();
    else if (key === "c" && current) (dialog ?? current).querySelector("select").focus();
    else {
      if (!current) return;
      const number = Number(current.dataset.review);
      const answer = answerOf(key, review.photos[number]);
      if (answer === undefined || answer === "=") return;
      giveAnswer(number, answer);
      goToNext();
    }
    event.preventDefault();
  });
  document.addEventListener("click", ({ target }) => {
    const image = target.closest(".picture, figure")?.querySelector("img[data-photo]") ?? target;
    if (target.matches("img") && image.dataset.photo) return enlarge(image);
    const button = target.closest(".answers button");
    if (!button) return;
    const number = Number(button.closest(".answers").dataset.answers);
    giveAnswer(number, button.value === answers.get(number) ? undefined : button.value);
  });
  document.addEventListener("change", ({ target }) => {
    if (target.matches(".answers select")) giveAnswer(Number(target.closest(".answers").dataset.answers), target.value || undefined);
  });
  document.addEventListener("focusin", ({ target }) => { current = target.closest("[data-review]") ?? current; });

  const quote = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = () => {
    const rows = [];
    review.photos.forEach(([path, label, sha256], number) => {
      const answer = answers.get(number);
      if (!answer || answer === `=${label}`) return;
      if (review.file !== "labels.csv") rows.push([path, answer === "-" ? "skip" : answer.slice(1), label && `was ${label}`, sha256]);
      else if (answer !== "-") rows.push([path, answer.slice(1)]);
    });
    return rows;
  };
  document.getElementById("review-save")?.addEventListener("click", () => {
    const rows = lines();
    const header = review.file === "labels.csv" ? ["path", "label"] : ["path", "label", "note", "sha256"];
    const text = [header, ...rows].map((row) => `${row.map(quote).join(",")}\n`).join("");
    if (rows.length) {
      const link = Object.assign(made("a"), { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: review.file });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }
    const saved = document.getElementById("review-saved");
    saved.textContent = rows.length ? `Saved ${rows.length} ${rows.length === 1 ? "photo" : "photos"} as ${review.file}.` : "Nothing to save: no answer differs from a label yet.";
    saved.hidden = false;
    document.getElementById("review-next").hidden = !rows.length;
  });

  // A hint says that a table continues beyond the edge of the screen.
  const edges = (box) => {
    const left = box.scrollLeft > 1;
    const right = box.scrollLeft + box.clientWidth < box.scrollWidth - 1;
    box.dataset.more = left && right ? "both" : left ? "left" : right ? "right" : "";
    if (right && !box.nextElementSibling?.matches(".scroll-hint")) box.after(made("p", "scroll-hint", "scroll sideways for more →"));
    else if (!right && !left && box.nextElementSibling?.matches(".scroll-hint")) box.nextElementSibling.remove();
  };
  const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => edges(target)));
  for (const box of document.querySelectorAll(".scroll")) {
    sizes.observe(box);
    box.addEventListener("scroll", () => edges(box), { passive: true });
  }

  watch(document);
  if (review.photos.length) {
    const kept = stored();
    const allowed = new Set(["-", ...review.classes.map((name) => `=${name}`)]);
    review.photos.forEach(([path], number) => { if (allowed.has(kept.get(path))) answers.set(number, kept.get(path)); });
    for (const card of cards) card.append(controls(Number(card.dataset.review)));
    for (const number of answers.keys()) for (const card of cardsOf.get(number) ?? []) card.classList.add("answered");
    count();
  }
  return { watch, made };
})();
