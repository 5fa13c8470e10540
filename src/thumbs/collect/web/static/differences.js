// Marks the words in which two replies differ.
function wordsOf(text) {
  const parser = new Intl.Segmenter(undefined, { granularity: "word" });
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    for (const { segment, index } of parser.segment(walker.currentNode.data)) {
      if (!segment.trim()) continue;
      const range = new Range();
      range.setStart(walker.currentNode, index);
      range.setEnd(walker.currentNode, index + segment.length);
      found.push([segment, range]);
    }
  }
  return found;
}
function differing(a, b) { // the ranges of words outside of a longest common subsequence
  if (a.length * b.length > 9e6) return [];
  const longest = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      longest[i][j] = a[i][0] === b[j][0] ? longest[i + 1][j + 1] + 1 : Math.max(longest[i + 1][j], longest[i][j + 1]);
    }
  }
  const found = [];
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i][0] === b[j][0]) { i++; j++; }
    else if (j === b.length || (i < a.length && longest[i + 1][j] >= longest[i][j + 1])) found.push(a[i++][1]);
    else found.push(b[j++][1]);
  }
  return found;
}

export function mark(texts) {
  CSS.highlights.set("differs", new Highlight(...differing(...texts.map(wordsOf))));
}
