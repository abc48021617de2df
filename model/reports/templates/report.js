(() => {
  const data = JSON.parse(document.getElementById("photo-data").textContent);

  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
  const look = (card, on) => {
    const heat = card.querySelector("img.heat");
    if (!heat) return;
    if (on && !heat.src) heat.src = data.heats[heat.dataset.heat];
    heat.hidden = !on;
    press(card.querySelector("button.look"), on);
  };
  for (const button of document.querySelectorAll("button.look")) {
    button.addEventListener("click", () => look(button.closest(".card"), !isPressed(button)));
  }
  for (const button of document.querySelectorAll("button.look-all")) {
    button.addEventListener("click", () => {
      const on = !isPressed(button);
      press(button, on);
      for (const card of document.getElementById(button.getAttribute("aria-controls")).children) look(card, on);
    });
  }

  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    return column ? Number(text) : text;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        // Numbers are in ascending order first, too, so that the worst class is on top.
        const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        for (const other of heads) other.setAttribute("aria-sort", other === head ? order : "none");
        const sign = order === "ascending" ? 1 : -1;
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
        table.tBodies[0].append(...rows);
      });
    });
  }

  const dialog = document.getElementById("cell");
  const { made, watch } = photoPage;
  const card = (photo, title) => {
    const item = made("li", "card");
    const frame = made("div", "frame");
    const picture = made("div", "picture");
    const image = made("img");
    image.alt = `${title}: ${photo.path}`;
    image.dataset.photo = photo.id;
    picture.append(image);
    frame.append(picture);
    item.append(frame, made("div", "muted", photo.probability.toFixed(3)), made("div", "path", photo.path));
    return item;
  };
  for (const button of document.querySelectorAll("button[data-cell]")) {
    button.addEventListener("click", () => {
      const place = button.dataset.cell;
      const [actual, answer] = place.split(",").map((label) => data.classes[Number(label)]);
      const title = actual === answer ? `${actual}, predicted correctly` : `${actual} predicted as ${answer}`;
      const cell = data.cells[place];
      document.getElementById("cell-title").textContent = `${title} (${button.textContent})`;
      document.getElementById("cell-photos").replaceChildren(...cell.photos.map((photo) => card(photo, title)));
      document.getElementById("cell-more").textContent = cell.more ? `and ${cell.more} more with lower probability; all are in the .npz beside this page` : "";
      watch(dialog);
      dialog.showModal();
      dialog.scrollTop = 0;
    });
  }
  document.getElementById("cell-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
