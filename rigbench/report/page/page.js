"use strict";
(() => {
  const root = document.documentElement, at = id => document.getElementById(id);
  root.classList.add("has-js");
  const made = (name, text, of) => { const it = document.createElement(name); if (text !== undefined) it.textContent = text; if (of) of.append(it); return it; };

  // Light and dark: as the system, until the button says otherwise.
  const theme = at("theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const shown = () => theme.setAttribute("aria-pressed", String(dark()));
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; shown(); });
  system.addEventListener("change", shown);
  shown();
  at("print").addEventListener("click", () => print());
  at("copy").addEventListener("click", async event => {
    const text = at("markdown").value;
    try { await navigator.clipboard.writeText(text); } catch { const area = at("markdown"); area.select(); document.execCommand("copy"); }
    const button = event.target; button.textContent = "Copied"; setTimeout(() => { button.textContent = "Copy as Markdown"; }, 1500);
  });

  // What if: hours, kWh and money of another budget, price or split.
  const data = at("cost-data") && JSON.parse(at("cost-data").textContent);
  if (data) {
    // As units.py writes a number: to the digit in which half of the half width begins, a range in two digits.
    const order = value => Math.floor(Math.log10(Math.abs(value)));
    const to = (value, place) => (Math.round(value / 10 ** place) * 10 ** place).toLocaleString("en-US", { minimumFractionDigits: Math.max(0, -place), maximumFractionDigits: Math.max(0, -place) });
    const digits = (value, count) => value === 0 ? "0" : to(value, order(value) - count + 1);
    const span = ([middle, low, high], told = true) => {
      if (high <= low) return digits(middle, 3);
      if (!told || high - low > Math.abs(middle)) return `${digits(low, 2)} to ${digits(high, 2)}`;
      const place = Math.max(Math.min(order((high - low) / 4), order(middle)), order(Math.max(Math.abs(middle), Math.abs(high))) - 3);
      return `${to(middle, place)} (${to(low, place)} to ${to(high, place)})`;
    };
    const sum = (a, b) => a.map((it, place) => it + b[place]), times = (a, by) => a.map(it => it * by);
    const shares = split => {
      const weights = data.rows.map(row => split === "equal FLOP" ? 1 / row.flop_per_token : split === "compute-optimal" ? row.parameters : 1);
      const flop = weights.reduce((all, weight, place) => all + weight * data.rows[place].flop_per_token, 0);
      return weights.map(weight => weight / flop);
    };
    const inputs = { flops: at("flops"), price: at("price"), split: at("split"), watts: at("watts") };
    const table = at("cost-table");
    const cell = (row, is) => table.querySelector(`[data-row="${row}"] [data-is="${is}"]`);
    const put = (row, its, most, told, first) => {
      const hours = times(its.hours, 1 / data.size);
      if (!first || row === "overheads") {
        cell(row, "hours").textContent = span(hours, told);
        cell(row, "kwh").textContent = its.kwh ? span(its.kwh, told) : "n/a";
        cell(row, "money").textContent = its.money ? span(its.money, told) : "n/a";
      }
      const scale = 100 / (most / data.size * 1.02);
      cell(row, "range").setAttribute("x", hours[1] * scale);
      cell(row, "range").setAttribute("width", Math.max(.6, (hours[2] - hours[1]) * scale));
      cell(row, "middle").setAttribute("x", told ? hours[0] * scale : -5);
    };
    let priced = data.price !== null;
    const compute = first => {
      const flops = data.flops * 10 ** (Number(inputs.flops.value) / 100), split = inputs.split ? inputs.split.value : data.split;
      const price = priced && inputs.price ? Number(inputs.price.value) : null, watts = inputs.watts ? Number(inputs.watts.value) || null : null;
      const same = split === data.split && flops === data.flops, share = shares(split);
      const rows = data.rows.map((row, place) => {
        const tokens = same ? row.tokens : flops * share[place], by = tokens / row.tokens, hours = times(row.hours, by);
        const kwh = row.kwh ? times(row.kwh, by) : watts ? times(hours, watts / 1000) : null;
        return { tokens, told: row.told, hours, kwh, money: kwh && price !== null ? times(kwh, price) : null };
      });
      const none = () => ({ hours: [0, 0, 0], kwh: [0, 0, 0] });
      const steps = rows.reduce((all, row) => ({ hours: sum(all.hours, row.hours), kwh: all.kwh && row.kwh ? sum(all.kwh, row.kwh) : null }), none());
      const grown = steps.hours[0] / data.rows.reduce((all, row) => all + row.hours[0], 0);
      const beyond = { hours: data.overheads.reduce((all, it) => sum(all, times(it.hours, it.fixed ? 1 : grown)), [0, 0, 0]) };
      const was = data.overheads.reduce((all, it) => sum(all, it.hours), [0, 0, 0]);
      beyond.kwh = data.overheads_kwh ? data.overheads_kwh.map((it, place) => was[place] ? it * beyond.hours[place] / was[place] : 0) : watts ? times(beyond.hours, watts / 1000) : null;
      const whole = { hours: sum(steps.hours, beyond.hours), kwh: steps.kwh && beyond.kwh ? sum(steps.kwh, beyond.kwh) : null };
      for (const its of [beyond, whole]) its.money = its.kwh && price !== null ? times(its.kwh, price) : null;
      const most = Math.max(whole.hours[2], ...rows.map(row => row.hours[2]));
      rows.forEach((row, place) => {
        put(place, row, most, row.told, first);
        if (!first) cell(place, "tokens").textContent = `${Number((row.tokens / 1e6).toPrecision(4)).toLocaleString("en-US")} M`;
      });
      put("overheads", beyond, most, true, first);
      put("whole", whole, most, rows.every(row => row.told), first);
      at("flops-out").textContent = `${Number(flops.toPrecision(3)).toExponential().replace("e+", "e")} FLOP`;
      if (priced && inputs.price) at("price-out").textContent = `${Number(Number(inputs.price.value).toPrecision(3))} ${data.currency}/kWh`;
      if (!first) at("said").textContent = `In all ${cell("whole", "hours").textContent} ${data.unit}, ${cell("whole", "kwh").textContent} kWh, ${cell("whole", "money").textContent} ${data.currency}`;
    };
    if (inputs.price) inputs.price.addEventListener("input", () => { priced = true; });
    at("sliders").addEventListener("input", () => compute(false));
    at("sliders").addEventListener("submit", event => event.preventDefault());
    at("sliders").addEventListener("reset", () => setTimeout(() => { priced = data.price !== null; if (!priced && inputs.price) at("price-out").textContent = "not known"; compute(false); }));
    compute(true);
  }

  // Tables that sort.
  const value = cell => { const text = cell.textContent.replace(/,/g, ""), number = parseFloat(text); return Number.isNaN(number) ? text : number; };
  const UNITS = { n: 1e-9, "µ": 1e-6, m: 1e-3, k: 1e3, K: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
  const sized = cell => { const it = value(cell), unit = /^-?[\d.,]+ (n|µ|m|k|K|M|G|T|P|E)(?:i?B|s|FLOP)/.exec(cell.textContent); return typeof it === "number" && unit ? it * UNITS[unit[1]] : it; };
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  function sortable(table) {
    table.querySelectorAll("thead th").forEach((heading, place) => {
      const button = made("button", heading.textContent); button.type = "button"; heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
        table.querySelectorAll("th[aria-sort]").forEach(it => it.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...body.rows].sort((a, b) => { const x = sized(a.cells[place]), y = sized(b.cells[place]); return (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y))) * (up ? 1 : -1); });
        body.append(...rows);
      });
    });
  }

  // Raw samples: a room of the run's file, unpacked when it is asked for.
  const SHOWN = 400, unpacked = new Map();
  async function room(name) {
    if (!unpacked.has(name)) {
      const holder = at(`room-${name}`);
      if (!holder) return undefined;
      const bytes = Uint8Array.from(atob(holder.textContent.trim()), it => it.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(name, JSON.parse(await new Response(stream).text()));
    }
    return unpacked.get(name);
  }
  const key = name => /^[A-Za-z_]\w*$/.test(name) ? `.${name}` : `[${JSON.stringify(name)}]`;
  function* flat(its, path) {
    if (Array.isArray(its)) {
      if (its.length && its.every(it => it === null || typeof it !== "object")) yield [path, its];
      else for (const [place, it] of its.entries()) yield* flat(it, `${path}[${place}]`);
    } else if (its && typeof its === "object") {
      if (its.type === "absent") yield [path, `n/a (${its.reason})`];
      else for (const [name, it] of Object.entries(its)) if (name !== "type") yield* flat(it, path + key(name));
    } else yield [path, its];
  }
  const text = its => (Array.isArray(its) ? its.join(" ") : String(its)).replace(/[\0-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  const quoted = its => { let words = String(its); if (typeof its === "string" && /^[=+\-@\t\r]/.test(words)) words = `'${words}`; return /[",\r\n]/.test(words) ? `"${words.replaceAll('"', '""')}"` : words; };
  function saved(rows, name) {
    const lines = ["path,value"];
    for (const [path, its] of rows) if (Array.isArray(its)) its.forEach((it, place) => lines.push(`${quoted(`${path}[${place}]`)},${quoted(it)}`)); else lines.push(`${quoted(path)},${quoted(its)}`);
    const link = made("a"); link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" })); link.download = `${name}.csv`;
    link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  async function viewer(paths) {
    const box = made("div"); box.className = "viewer";
    let rows = [];
    for (const path of paths) {
      const name = /^\.(\w+)/.exec(path)[1], its = await room(name);
      if (its === undefined) continue;
      const pattern = new RegExp("^" + path.replace(/[.*+?^${}()|\\]/g, "\\$&").replaceAll("[]", "\\[\\d+\\]").replace(/\[(\d+)\](?!\\)/g, "\\[$1\\]") + "(?![A-Za-z0-9_])");
      rows = rows.concat([...flat(its, `.${name}`)].filter(([at]) => pattern.test(at)));
    }
    const bar = made("div", undefined, box); bar.className = "bar";
    const find = made("input", undefined, bar); find.type = "search"; find.placeholder = "find in paths and values"; find.setAttribute("aria-label", "find in paths and values");
    const csv = made("button", "Download CSV", bar); csv.type = "button";
    const said = made("p", undefined, box); said.className = "source"; said.setAttribute("role", "status");
    const scroll = made("div", undefined, box); scroll.className = "scroll"; scroll.tabIndex = 0; scroll.setAttribute("role", "region"); scroll.setAttribute("aria-label", `raw samples of ${paths.join(", ")}`);
    const table = made("table", undefined, scroll), head = made("tr", undefined, made("thead", undefined, table));
    for (const name of ["path (jq)", "value"]) made("th", name, head).scope = "col";
    const body = made("tbody", undefined, table);
    let left = rows;
    const draw = () => {
      const wanted = find.value.toLowerCase();
      left = rows.filter(([path, its]) => !wanted || path.toLowerCase().includes(wanted) || text(its).toLowerCase().includes(wanted));
      body.replaceChildren(...left.slice(0, SHOWN).map(([path, its]) => {
        const row = made("tr"); made("th", path, row).scope = "row";
        const words = text(its); made("td", words.length > 2000 ? `${words.slice(0, 2000)} …` : words, row);
        return row;
      }));
      said.textContent = left.length > SHOWN ? `${SHOWN} of ${left.length} rows; find narrows them, the CSV has all` : `${left.length} rows`;
    };
    find.addEventListener("input", draw);
    csv.addEventListener("click", () => saved(left, paths.join("_").replace(/[^\w]+/g, "-").replace(/^-+|-+$/g, "")));
    sortable(table); draw();
    return box;
  }
  for (const button of document.querySelectorAll("button.raw")) button.addEventListener("click", async () => {
    const open = button.getAttribute("aria-expanded") === "true", after = button.closest(".rooms") || button;
    if (button.box) button.box.remove();
    button.setAttribute("aria-expanded", String(!open));
    if (open) { button.box = null; return; }
    button.box = await viewer(button.dataset.path.split(",").map(it => it.trim()));
    after.after(button.box);
  });
})();
