// The scripts of the page.

// Copies the texts of a tab to the clipboard. Returns a message as HTML.
async function copyTexts(tab) {
  const texts = [...document.querySelectorAll(`#${tab} .text`)].map(text => text.textContent);
  try {
    await navigator.clipboard.writeText(texts.join("\n\n"));
    return "<p>Copied.</p>";
  } catch {
    return "<p>This browser does not allow copying here. Select the text instead.</p>";
  }
}

// Replaces the selected letters by a blank of the same length. If nothing is selected, replaces the word at the cursor.
function blankOut(text) {
  const area = document.querySelector("#blanks textarea");
  let [start, end] = [area.selectionStart, area.selectionEnd];
  if (start === end) {
    while (start > 0 && /\S/.test(text[start - 1])) start--;
    while (end < text.length && /\S/.test(text[end])) end++;
  }
  const length = [...new Intl.Segmenter().segment(text.slice(start, end))].length;  // a letter can have several code units
  return length ? `${text.slice(0, start)}{${length}}${text.slice(end)}` : text;
}

// Makes screen readers read each new message aloud.
new MutationObserver(() => {
  for (const said of document.querySelectorAll(".prose.said:not([aria-live])")) said.setAttribute("aria-live", "polite");
}).observe(document, {childList: true, subtree: true});
