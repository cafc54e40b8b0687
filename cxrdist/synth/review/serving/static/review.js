// The page of a reading: shows the image that is due, takes the answer by keys, and loads the next image meanwhile.
// The image itself is drawn by image.js.
"use strict";

// ---- dark or light

const root = document.documentElement;
const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* private window */ } };
if (kept("theme")) root.dataset.theme = kept("theme");

function changeTheme() {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  keep("theme", root.dataset.theme);
}

const byId = (id) => document.getElementById(id);
const isTyping = (target) => target.tagName === "INPUT";

function plainPage() {
  const press = (key) => {
    if (key === "d") changeTheme();
    else document.querySelector(`a[data-key="${CSS.escape(key)}"]`)?.click();
  };
  document.addEventListener("keydown", (event) => {
    if (!isTyping(event.target) && !event.ctrlKey && !event.metaKey && !event.altKey) press(event.key);
  });
  document.querySelector('button[data-key="d"]')?.addEventListener("click", () => press("d"));
}

// ---- time: of the image, and since the last break; stands still in a break

class Watch {
  constructor() { Object.assign(this, { before: 0, since: null }); }
  seconds() { return this.before + (this.since === null ? 0 : (performance.now() - this.since) / 1000); }
  start() { if (this.since === null) this.since = performance.now(); }
  stop() { this.before = this.seconds(); this.since = null; }
  restart() { this.before = 0; this.since = this.since === null ? null : performance.now(); }
}

// ---- the answer, step by step

class Answer {
  constructor(fieldsets, text) {
    this.steps = [...fieldsets];
    this.text = text;
    this.clear();
  }

  clear() {
    this.chosen = {};
    if (this.text) this.text.value = "";
    this.show();
  }

  applies(step) { return !step.dataset.for || step.dataset.for.split(" ").includes(this.chosen.answer); }
  isOptional(step) { return (step.dataset.optionalFor ?? "").split(" ").includes(this.chosen.answer); }
  get now() { return this.steps.find((step) => this.applies(step) && !(step.dataset.step in this.chosen)); }

  get isWhole() {
    const lacking = this.steps.some((s) => this.applies(s) && !this.isOptional(s) && !(s.dataset.step in this.chosen));
    const needsText = this.pressed().some((button) => button.dataset.needsText !== undefined);
    return !lacking && !(needsText && !this.text.value.trim());
  }

  pressed() {
    return this.steps.flatMap((step) => [...step.querySelectorAll("button")].filter((button) =>
      this.applies(step) && this.chosen[step.dataset.step] === button.dataset.value));
  }

  // The button of a key: of the step that is due, else of the last one that has it.
  button(key) {
    const steps = [this.now, ...this.steps.filter((step) => this.applies(step)).reverse()].filter(Boolean);
    const buttons = steps.flatMap((step) => [...step.querySelectorAll("button")]);
    return buttons.find((button) => button.dataset.key === key);
  }

  choose(button) {
    const step = button.closest("fieldset");
    this.chosen[step.dataset.step] = button.dataset.value;
    this.show();
    if (button.dataset.needsText !== undefined) this.text.focus();
  }

  back() {
    const last = this.steps.filter((step) => step.dataset.step in this.chosen && this.applies(step)).pop();
    if (last) delete this.chosen[last.dataset.step];
    this.show();
  }

  show() {
    const pressed = this.pressed();
    for (const step of this.steps) {
      step.disabled = !this.applies(step);
      step.classList.toggle("now", step === this.now);
      for (const button of step.querySelectorAll("button")) button.ariaPressed = String(pressed.includes(button));
    }
    byId("send").disabled = !this.isWhole;
  }

  json() {
    const values = this.steps.filter((step) => this.applies(step) && step.dataset.step in this.chosen).map((step) =>
      [step.dataset.step, step.dataset.number === undefined ? this.chosen[step.dataset.step] : Number(this.chosen[step.dataset.step])]);
    const hasText = this.text && !this.text.closest("fieldset").disabled;
    return { ...Object.fromEntries(values), ...(hasText ? { text: this.text.value } : {}) };
  }
}

// ---- the session

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const minutes = (seconds) => seconds < 60 ? "under a minute left" : `about ${Math.round(seconds / 60)} min left`;

class Session {
  constructor(body) {
    this.task = body.dataset.task;
    this.csrf = body.dataset.csrf;
    this.body = body;
    this.view = new View(byId("stage"), byId("image"));
    this.answer = new Answer(document.querySelectorAll("fieldset"), byId("text"));
    this.ofImage = new Watch();
    this.sinceBreak = new Watch();
    this.ahead = null;
    this.isBusy = false;
    this.sinceBreak.start();
    setInterval(() => this.suggestBreak(), 1000);
    document.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-key]");
      if (button) { button.blur(); this.press(button.dataset.key, button); }
    });
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.pause(true); });
    byId("text")?.addEventListener("input", () => this.answer.show());
    this.show(JSON.parse(body.dataset.state));
  }

  async show(state, begun = null) {
    this.state = state;
    this.isBusy = true;
    const { item, done, total } = state;
    byId("progress").max = Math.max(total, 1);
    byId("progress").value = done;
    byId("count").textContent = item ? `Image ${done + 1} of ${total}` : `${done} of ${total} read`;
    byId("left").textContent = item && state.left_s !== null ? minutes(state.left_s) : "";
    this.notice(state.note ?? "");
    this.answer.clear();
    byId("steps").inert = !item;
    if (!item) {
      this.view.hide();
      this.ofImage.stop();
      byId("message").textContent = total ? "All images are read. Thank you." : "There are no images for you in this task.";
      this.isBusy = false;
      return;
    }
    byId("message").textContent = "";
    if (byId("class")) byId("class").textContent = item.class;
    this.nonce = crypto.getRandomValues(new Uint32Array(4)).join("-");
    try {
      this.view.show(await (this.ahead?.token === item.token ? this.ahead.image : loaded(item)));
    } catch {
      this.view.hide();
      byId("message").textContent = "This image cannot be shown. Reload the page; if that does not help, tell whoever runs the server.";
      return;
    }
    this.ofImage.restart();
    if (byId("pause").hidden) this.ofImage.start();
    this.isBusy = false;
    if (begun !== null) requestAnimationFrame(() => performance.measure("switch", { start: begun, end: performance.now() }));
    this.body.dataset.shown = item.token;
    this.ahead = state.next && { token: state.next.token, image: loaded(state.next) };
    this.ahead?.image.catch(() => { this.ahead = null; });
  }

  // Sends a request until it is answered: the server may be gone for a while, and counts a request once.
  async post(path, value) {
    for (;;) {
      try {
        const reply = await fetch(`/${this.task}/${path}`, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-CSRF-Token": this.csrf },
          body: JSON.stringify(value),
        });
        if (reply.ok) return await reply.json();
        if (reply.status < 500) { location.reload(); return null; }
        this.notice("The server cannot store the answer. Trying again…");
      } catch {
        this.notice("The server cannot be reached. Your answer is kept here and sent again…");
      }
      await pause(1000);
    }
  }

  async change(path, value) {
    if (this.isBusy) return;
    this.isBusy = true;
    const begun = performance.now();
    const state = await this.post(path, value);
    if (state) await this.show(state, begun);
  }

  send() {
    if (!this.state.item || !this.answer.isWhole) return;
    const seconds = this.ofImage.seconds();
    this.change("answer", { token: this.state.item.token, nonce: this.nonce, seconds, ...this.answer.json() });
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
    if (event.key === "Enter" && event.target.tagName === "A") return;
    if (isTyping(event.target)) {
      if (event.key === "Escape" || event.key === "Enter" && this.answer.isWhole) event.target.blur();
      if (event.key === "Enter") this.press("Enter");
      return;
    }
    if (this.press(event.key)) event.preventDefault();
  }

  // Returns whether the key means something here.
  press(key, button = null) {
    if (key === "b") this.pause(byId("pause").hidden);
    else if (key === "d") changeTheme();
    else if (!byId("pause").hidden) return false;
    else if (key === "z") { if (this.state.undo) this.change("undo", { nonce: this.state.undo }); }
    else if (this.isBusy || !this.state.item) return false;
    else if (key === "Enter") this.send();
    else if (key === "Backspace") this.answer.back();
    else if (key === "t" && byId("text") && !byId("text").closest("fieldset").disabled) byId("text").focus();
    else if (this.view.press(key)) return true;
    else if ((button?.dataset.value !== undefined) || this.answer.button(key)) {
      const chosen = button?.dataset.value !== undefined ? button : this.answer.button(key);
      this.answer.choose(chosen);
      if (chosen.dataset.sends !== undefined) this.send();
    } else return false;
    return true;
  }

  pause(isPaused) {
    if (isPaused === !byId("pause").hidden) return;
    byId("pause").hidden = !isPaused;
    for (const watch of [this.ofImage, this.sinceBreak]) {
      if (isPaused) watch.stop(); else watch.start();
    }
    if (!isPaused) { this.sinceBreak.restart(); this.notice(""); }
  }

  suggestBreak() {
    const limit = Number(this.body.dataset.breakAfterS);
    if (this.sinceBreak.seconds() >= limit && byId("notice").hidden) {
      this.notice(`You have read for ${Math.round(limit / 60)} minutes. How about a break? Press b.`);
    }
  }

  notice(text) { byId("notice").textContent = text; byId("notice").hidden = !text; }
}

document.addEventListener("DOMContentLoaded", () => {
  if (document.body.dataset.task) new Session(document.body);
  else plainPage();
});
