// node page_check.mjs PAGE OUT: open a page at two widths in both colour schemes, and print what is
// wrong with it, a line each: console messages, requests, pictures without alt text, overflow, axe.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const [page, modules, browserPath] = process.argv.slice(2);
const require = createRequire(path.join(modules, 'x.js'));
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const found = [];
const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox', '--disable-gpu'] });
for (const bypassCSP of [false, true]) { // axe is injected where the page's policy does not refuse it
  for (const width of [1280, 390]) {
    for (const colorScheme of ['light', 'dark']) {
      const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme, bypassCSP });
      const tab = await context.newPage();
      const where = `${width} ${colorScheme}`;
      tab.on('console', (message) => found.push(`${where} console: ${message.text()}`));
      tab.on('pageerror', (error) => found.push(`${where} error: ${error.message}`));
      tab.on('request', (request) => {
        const url = request.url();
        if (!url.startsWith('data:') && url !== pathToFileURL(page).href) found.push(`${where} request: ${url}`);
      });
      await tab.goto(pathToFileURL(page).href);
      const over = await tab.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) found.push(`${where} overflow: ${over} px`);
      const bare = await tab.evaluate(() => [...document.images].filter((image) => !image.alt || !image.naturalWidth).length);
      if (bare) found.push(`${where} pictures without alt text or content: ${bare}`);
      if (bypassCSP) {
        await tab.evaluate(axe);
        const { violations } = await tab.evaluate(() => globalThis.axe.run(document));
        for (const one of violations) found.push(`${where} axe ${one.id}: ${one.nodes[0].html.slice(0, 200)}`);
      }
      await context.close();
    }
  }
}
await browser.close();
console.log(found.join('\n'));
