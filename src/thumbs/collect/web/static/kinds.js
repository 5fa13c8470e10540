// What tasks other than pairs do: number keys of rankings and ratings, writing in a conversation, waiting for a task.
const $ = (selector, root) => root.querySelector(selector);
const $$ = (selector, root) => [...root.querySelectorAll(selector)];

export const rank = {
  number(n, form) { // of the card in use, or the first without; then on to the next without
    const cards = $$(".reply", form);
    const field = (card) => $("[type=number]", card);
    const open = () => cards.find((card) => !field(card).value);
    const card = document.activeElement.closest(".reply") ?? open() ?? cards[0];
    if (n < 1 || n > cards.length) return;
    field(card).value = n;
    $(".scroll", open() ?? card).focus();
  },
  changed(form) { // B > A = C
    const fields = $$("[type=number]", form).map((field, place) => [+field.value, "ABCDEFGHI"[place]]);
    const ranked = fields.filter(([n]) => n).sort(([n], [m]) => n - m);
    const sign = (i) => (i ? (ranked[i][0] === ranked[i - 1][0] ? " = " : " > ") : "");
    $("#order", form).textContent = ranked.map(([, letter], i) => sign(i) + letter).join("");
  },
};

export const rate = {
  number(n, form) { // of the row in use, or the first without; then on to the next without
    const rows = $$(".axis", form);
    const open = () => rows.find((row) => !$(":checked", row));
    const field = $(`[value="${n}"]`, document.activeElement.closest(".axis") ?? open() ?? rows[0]);
    if (!field) return;
    field.checked = true;
    $(open() ? "input" : ".primary", open() ?? form).focus();
  },
};

export const say = {
  number() {},
  async submit(form, page) {
    const { goal, text } = Object.fromEntries(new FormData(form));
    const { conversation } = form.dataset;
    page.sending(true);
    page.say(page.words.writing);
    const url = conversation ? `/api/chat/${conversation}/turns` : `${page.url}/chat`;
    const found = await page.ask("POST", url, { text, ...(goal && { goal }) }, 300000);
    page.sending(false);
    page.say("");
    if (found) page.show(found);
  },
  async end(form, page) {
    const { success } = Object.fromEntries(new FormData(form));
    const found = await page.ask("POST", `/api/chat/${form.dataset.conversation}/end`, success ? { success: +success } : {});
    if (found) page.show(found.next);
  },
};

export async function poll(page) {
  const place = document.querySelector("[data-poll]");
  for (let pause = 2000; place?.isConnected; pause = Math.min(pause * 1.3, 15000)) {
    await new Promise((done) => setTimeout(done, pause));
    const found = !document.hidden && place.isConnected && await page.ask("POST", `${page.url}/claim`, {});
    if (!found || !place.isConnected || found.nothing === place.dataset.poll) continue;
    page.show(found);
    if (found.task) page.say(page.words.new);
  }
}
