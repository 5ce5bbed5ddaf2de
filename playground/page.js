// What the page of the playground does in the browser.

// The texts of a tab go to the clipboard. Returns a message as HTML.
async function copyTexts(tab) {
  const texts = [...document.querySelectorAll(`#${tab} .text`)].map(text => text.textContent);
  try {
    await navigator.clipboard.writeText(texts.join("\n\n"));
    return "<p>Copied.</p>";
  } catch {
    return "<p>This browser does not allow copying here. Select the text instead.</p>";
  }
}

// The marked part of a text, or else the word at the cursor, becomes a blank of the same length. Returns the new text.
function blankOut(text) {
  const area = document.querySelector("#blanks textarea");
  let [start, end] = [area.selectionStart, area.selectionEnd];
  if (start === end) {
    while (start > 0 && /\S/.test(text[start - 1])) start--;
    while (end < text.length && /\S/.test(text[end])) end++;
  }
  const length = [...new Intl.Segmenter().segment(text.slice(start, end))].length;  // a letter may have several units
  return length ? `${text.slice(0, start)}{${length}}${text.slice(end)}` : text;
}

// A screen reader says each new message.
new MutationObserver(() => {
  for (const said of document.querySelectorAll(".prose.said:not([aria-live])")) said.setAttribute("aria-live", "polite");
}).observe(document, {childList: true, subtree: true});
