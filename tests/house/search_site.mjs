// node search_site.mjs SITE WORDS...: what the site's own search finds for each, best first, as JSON.
import fs from 'node:fs';
import path from 'node:path';
import vm from 'node:vm';

const [site, ...queries] = process.argv.slice(2);
const workers = path.join(site, 'assets/javascripts/workers');
const script = fs.readdirSync(workers).find((name) => /^search.*\.js$/.test(name));
let ask, answer;
const worker = {
  addEventListener: (_, listener) => { ask = listener; },
  postMessage: (message) => answer(message.data),
  console,
};
worker.self = worker;
vm.runInNewContext(fs.readFileSync(path.join(workers, script), 'utf8'), worker);
const send = (type, data) => new Promise((resolve) => { answer = resolve; ask({ data: { type, data } }); });

// As the page does before the reader types.
const index = JSON.parse(fs.readFileSync(path.join(site, 'search/search_index.json'), 'utf8'));
await send(0, { ...index, options: { suggest: false } });
const found = {};
for (const query of queries) {
  const { items } = await send(2, query);
  found[query] = items.map((sections) => sections[0].location.split("#")[0].replace(/\/$/, ""));
}
console.log(JSON.stringify(found));
