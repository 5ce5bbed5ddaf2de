// The program of the page write.md: the shipped model writes in the reader's browser, without a server.
//
// The program that builds the site copies this file into the folder browser/. It adds the model (model.onnx and
// config.json), onnxruntime-web, which runs the model in WebAssembly, and plumbing/player.html, which shows a text pass
// by pass. The functions of part 2 are those of 04_diffusion.py and have the same names, so you can read both files
// side by side. These functions work on a single text, so a tensor (B, T) becomes an array of length T.

import * as ort from "./ort.wasm.min.mjs";

const fetched = name => fetch(new URL(name, import.meta.url)).then(answer => {
  if (!answer.ok) throw new Error(`${name} is missing on the server`);
  return answer;
});

// 1. The model: a canvas → for each position, the logits of all tokens

export async function load() {
  ort.env.wasm.wasmPaths = new URL(".", import.meta.url).href;
  ort.env.wasm.numThreads = 1;  // threads need two headers that a plain static server does not send
  const config = await (await fetched("config.json")).json();
  const session = await ort.InferenceSession.create(await (await fetched("model.onnx")).arrayBuffer());
  const V = config.model.vocab_size;
  return {
    letters: [...config.tokenizer.vocabulary, "░"], maskId: V, length: config.model.seq_len,
    async logits(canvas) {
      const tokens = new ort.Tensor("int64", BigInt64Array.from(canvas, BigInt), [1, canvas.length]);
      const {data} = (await session.run({tokens})).logits;
      return canvas.map((_, i) => data.subarray(i * V, (i + 1) * V));
    },
  };
}

// 2. The sampler of chapter 04

function softmax(logits, temperature = 1) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const weights = Array.from(logits, score => Math.exp((score - largest) / temperature));
  const total = weights.reduce((a, b) => a + b);
  return weights.map(weight => weight / total);
}

// Draw a token for each position, and return how probable it is. At temperature 0, take the most likely token.
function propose(logits, temperature) {
  const token = logits.map(scores => {
    if (temperature < 0.001) return scores.indexOf(scores.reduce((a, b) => Math.max(a, b)));
    let left = Math.random();
    const drawn = softmax(scores, temperature).findIndex(share => (left -= share) < 0);
    return drawn < 0 ? scores.length - 1 : drawn;  // the shares may add up to a little less than 1
  });
  return {token, probability: logits.map((scores, i) => softmax(scores)[token[i]])};
}

// A rule returns where to write: true at `count` masked positions.
export const byConfidence = (confidence, masked, count) => highest(confidence, masked, count);

export function scattered(confidence, masked, count) {
  const score = masked.map(() => Math.random());
  return highest(distanceToHigher(score, masked).map((distance, i) => distance + score[i]), masked, count);
}

function highest(score, masked, count) {
  const places = [...masked.keys()].filter(i => masked[i]).sort((a, b) => score[b] - score[a]);
  const chosen = new Set(places.slice(0, count));
  return masked.map((_, i) => chosen.has(i));
}

function distanceToHigher(score, masked) {
  const higher = (i, j) => masked[j] && score[j] > score[i];
  return score.map((_, i) => {
    if (!masked[i]) return 0;
    for (let d = 1; d < score.length; d++) if (higher(i, i - d) || higher(i, i + d)) return d;
    return Infinity;
  });
}

export async function* unmask(model, canvas, steps, temperature = 1, select = scattered) {
  const blank = token => token === model.maskId;
  const total = canvas.filter(blank).length;
  steps = Math.min(steps, total);
  let confidence = canvas.map(token => blank(token) ? 0 : 1);
  for (let step = 1; step <= steps; step++) {
    const masked = canvas.map(blank);
    const {token, probability} = propose(await model.logits(canvas), temperature);
    confidence = confidence.map((old, i) => masked[i] ? probability[i] : old);
    const left = Math.floor(total * (steps - step) / steps);  // masks that this pass should leave
    const committed = select(confidence, masked, masked.filter(Boolean).length - left);
    canvas = canvas.map((old, i) => committed[i] ? token[i] : old);
    yield {canvas, confidence, committed};
  }
}

const REACH = 4;  // a pass of correction hides only tokens that are more than this many positions apart

function doubtful(confidence, written) {
  const score = confidence.map(share => {
    const gumbel = -Math.log(-Math.log(Math.min(Math.max(Math.random(), 1e-6), 1 - 1e-6)));
    return Math.log(Math.max(1 - share, 1e-6)) + gumbel;
  });
  return distanceToHigher(score, written).map(distance => distance > REACH);
}

async function* correct(model, state, written, steps, temperature) {
  for (let step = 0; step < steps; step++) {
    const hidden = doubtful(state.confidence, written);
    const logits = await model.logits(state.canvas.map((old, i) => hidden[i] ? model.maskId : old));
    const {token, probability} = propose(logits, temperature * (1 - step / steps));
    state = {canvas: state.canvas.map((old, i) => hidden[i] ? token[i] : old),
             confidence: state.confidence.map((old, i) => hidden[i] ? probability[i] : old), committed: hidden};
    yield state;
  }
}

// Fill the masks of a canvas, and then correct the new text. Yields a state after each pass.
export async function* denoise(model, canvas, steps, temperature) {
  const blanks = canvas.map(token => token === model.maskId);
  const masks = blanks.filter(Boolean).length;
  const corrections = Math.min(Math.floor(steps / 2), masks - 1, steps - 1);
  let state;
  for await (state of unmask(model, canvas, steps - corrections, temperature)) yield state;
  yield* correct(model, state, blanks, corrections, temperature);
}

// 3. The page

// Return the canvas for a text with blanks, where _ is one mask and {20} is twenty masks. A text without blanks is a
// prompt, and masks fill the rest of the window.
export function toCanvas(model, text) {
  const canvas = [];
  for (const [part, count] of text.replaceAll("\r", "").matchAll(/_|\{(\d{1,3})\}|./gsu)) {
    const token = model.letters.indexOf(part);
    if (part === "_" || count) canvas.push(...Array(+(count ?? 1)).fill(model.maskId));
    else if (token < 0 || token === model.maskId) throw new Error(`The model has never seen the character ${part}`);
    else canvas.push(token);
  }
  if (canvas.length > model.length || canvas.length === model.length && !canvas.includes(model.maskId))
    throw new Error(`The model reads ${model.length} letters at once: please shorten the text`);
  return canvas.includes(model.maskId) ? canvas : [...canvas, ...Array(model.length - canvas.length).fill(model.maskId)];
}

// Return the page of the player that shows these states. The class Page of plumbing/views.py does the same in Python.
function play(template, model, start, states, facts) {
  const events = [[]], guesses = ["0".repeat(start.length)];
  for (const {canvas, confidence, committed} of states) {
    events.push(canvas.flatMap((token, i) => committed[i] ? [[i, token, Math.round(100 * confidence[i])]] : []));
    guesses.push(confidence.map(share => Math.round(35 * share).toString(36)).join(""));
  }
  const run = {title: `${states.length} passes`, facts, letters: model.letters, mask: model.maskId,
               samples: [{start, events, guesses}]};
  return template.replace("__RUN__", () => JSON.stringify(run).replaceAll("<", "\\u003c"));
}

function show(model, start, {canvas, committed}) {
  const style = i => start[i] !== model.maskId ? "given" : canvas[i] === model.maskId ? "mask" : committed[i] ? "new" : "";
  document.getElementById("live").replaceChildren(...canvas.map((token, i) => {
    const span = document.createElement("span");
    span.className = style(i);
    span.textContent = model.letters[token];  // never markup, whatever a visitor types
    return span;
  }));
}

async function write(form) {
  const [live, player, said] = ["live", "player", "said"].map(name => document.getElementById(name));
  live.hidden = false;
  player.hidden = true;
  if (!form.model) said.textContent = "The model is on its way …";
  form.model ??= await load();
  form.player ??= await (await fetched("player.html")).text();
  const start = toCanvas(form.model, form.elements.text.value);
  const [steps, temperature] = form.elements.passes.value.split(" ").map(Number);
  const states = [], began = performance.now();
  show(form.model, start, {canvas: start, committed: []});
  for await (const state of denoise(form.model, start, steps, temperature)) {
    states.push(state);
    show(form.model, start, state);
    said.textContent = `Pass ${states.length}`;
    await new Promise(done => setTimeout(done));  // let the browser draw
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  player.srcdoc = play(form.player, form.model, start, states, `${seconds} seconds in this browser`);
  said.textContent = "Finished. Move the slider to see the order in which the letters came.";
  [live.hidden, player.hidden] = [true, false];
}

const form = document.getElementById("write");
form?.addEventListener("submit", async event => {
  event.preventDefault();
  const said = document.getElementById("said");
  form.elements.button.disabled = true;
  said.ariaBusy = "true";  // a screen reader then announces only the end, and not each pass
  try {
    await write(form);
  } catch (error) {
    said.textContent = `${error.message}.`;
  }
  said.ariaBusy = "false";
  form.elements.button.disabled = false;
});
