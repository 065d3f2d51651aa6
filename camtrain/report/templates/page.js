"use strict";

// Choose and sort the images of a gallery.
function gallery(section) {
  const form = section.querySelector(".controls");
  const filters = [...form.querySelectorAll("[data-filter]")];
  const sort = form.querySelector("[data-sort]"), order = form.querySelector("[data-order]");
  const figures = [...section.querySelectorAll("figure")];
  const walls = [...section.querySelectorAll(".wall")].map((wall) => [wall, [...wall.children]]);

  function value(figure) {
    const number = parseFloat(figure.dataset.values.split(" ")[sort.value]);
    return Number.isFinite(number) ? order.value * number : Infinity; // what is not known comes last
  }

  function show() {
    const wanted = filters.map((filter) => filter.value).filter(Boolean);
    for (const figure of figures) {
      const tokens = figure.dataset.tokens.split(" ");
      figure.hidden = !wanted.every((token) => tokens.includes(token));
    }
    for (const [wall, own] of walls) {
      const sorted = sort.value ? [...own].sort((one, other) => value(one) - value(other) || 0) : own;
      wall.append(...sorted);
      wall.parentElement.hidden = own.every((figure) => figure.hidden);
    }
    order.disabled = !sort.value;
    const count = figures.filter((figure) => !figure.hidden).length;
    form.querySelector("output").textContent = `${count} of ${figures.length} images`;
  }

  form.hidden = false;
  form.addEventListener("change", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  section.only = (token) => {
    for (const filter of filters) filter.value = [...filter.options].some((each) => each.value === token) ? token : "";
    show();
  };
  show();
}

for (const section of document.querySelectorAll(".images")) gallery(section);

// From a row of a table to its images.
for (const link of document.querySelectorAll("[data-show]")) {
  link.addEventListener("click", (event) => {
    const section = document.querySelector(link.getAttribute("href"));
    section.only(link.dataset.show);
    event.preventDefault();
    const title = section.querySelector("h2");
    title.scrollIntoView();
    title.focus({ preventScroll: true });
  });
}

// Copy a table.
function cells(table) {
  return [...table.rows].map((row) => [...row.cells].map((cell) => {
    const copy = cell.cloneNode(true), note = cell.scope !== "row" && cell.querySelector("small");
    for (const small of copy.querySelectorAll("small")) small.remove();
    const parts = [...copy.childNodes].map((node) => node.nodeName === "BR" ? "; " : node.textContent);
    const texts = [parts.join(""), note ? note.textContent : ""];
    return texts.map((text) => text.replace(/\s+/g, " ").trim()).filter(Boolean).join(" ");
  }));
}

function asCsv(rows) {
  const width = Math.max(...rows.map((row) => row.length));
  const field = (text = "") => /[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  return rows.map((row) => Array.from({ length: width }, (_, at) => field(row[at])).join(",") + "\n").join("");
}

function asLatex(rows) {
  const signs = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
    "<": "\\textless{}", ">": "\\textgreater{}", "±": "$\\pm$", "−": "$-$", "×": "$\\times$", "†": "\\dag{}" };
  const escaped = (text) => text.replace(/[\\~^<>±−×†]|[&%$#_{}]/g, (sign) => signs[sign] || `\\${sign}`);
  const width = Math.max(...rows.map((row) => row.length));
  const lines = rows.map((row) => (row.length === 1 && width > 1
    ? `\\multicolumn{${width}}{l}{\\emph{${escaped(row[0])}}}` : row.map(escaped).join(" & ")) + " \\\\");
  return [`\\begin{tabular}{l${"r".repeat(width - 1)}}`, "\\hline", lines[0], "\\hline", ...lines.slice(1),
    "\\hline", "\\end{tabular}", ""].join("\n");
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // an old browser, or no permission
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

for (const place of document.querySelectorAll(".scroll")) {
  if (place.closest("figure")) continue;
  const table = place.querySelector("table"), bar = document.createElement("p"), said = document.createElement("output");
  bar.className = "copy";
  for (const [name, write] of [["CSV", asCsv], ["LaTeX", asLatex]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `copy as ${name}`;
    button.setAttribute("aria-label", `copy ${table.getAttribute("aria-label")} as ${name}`);
    button.addEventListener("click", async () => {
      const back = document.activeElement, done = await copied(write(cells(table)));
      back.focus();
      said.textContent = done ? `copied as ${name}` : "the browser does not allow copying";
    });
    bar.append(button, " ");
  }
  bar.append(said);
  place.after(bar);
}

// On paper everything is open.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details:not([open])")) { part.open = true; part.dataset.closed = ""; }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("[data-closed]")) { part.open = false; delete part.dataset.closed; }
});
