// Opens a generated page in headless Chromium, from a plain file server and with nothing else to be reached, uses it,
// and says what it saw as JSON.   node browser.mjs FOLDER [--file CSV | --prompt TEXT | --text TEXT] [--picture PNG]
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, extname, normalize } from "node:path";
import { parseArgs } from "node:util";

const { chromium } = createRequire(join(process.env.NODE_FOLDER, "package.json"))("playwright-core");
const { positionals: [folder], values } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(["file", "prompt", "text", "picture"].map((name) => [name, { type: "string" }])),
});
const TYPES = { ".mjs": "text/javascript", ".html": "text/html", ".wasm": "application/wasm", ".css": "text/css" };
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://here").pathname)).replace(/\/$/, "/index.html");
  try {
    const body = await readFile(join(folder, path));
    response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "application/octet-stream" }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const here = `http://127.0.0.1:${server.address().port}/`;

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const page = await browser.newPage({ viewport: { width: 900, height: 540 }, deviceScaleFactor: 1 });
const elsewhere = [], problems = [];
await page.route("**", (route) => {
  const url = route.request().url();
  if (url.startsWith(here) || url.startsWith("data:") || url.startsWith("blob:")) return route.continue();
  elsewhere.push(url);
  return route.abort();
});
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("pageerror", (error) => problems.push(String(error)));
await page.goto(here);
await page.waitForFunction(() => document.documentElement.dataset.replay || document.getElementById("error").textContent);
if (values.file) await page.setInputFiles("#file", values.file);
if (values.prompt) {
  await page.fill("#prompt", values.prompt);
  await page.fill("#temperature", "0");
  await page.fill("#steps", "60");
  await page.click("button");
}
if (values.text) await page.fill("#text", values.text);
if (values.file || values.prompt || values.text)
  await page.waitForFunction(() => document.documentElement.dataset.done || document.getElementById("error").textContent, null, {
    timeout: 120_000,
  });
if (values.picture) await page.screenshot({ path: values.picture });
const text = (id) => page.evaluate((id) => document.getElementById(id)?.textContent ?? "", id);
const seen = {
  replay: await page.evaluate(() => document.documentElement.dataset.replay ?? ""),
  status: await text("replay"), result: await text("result"), latency: await text("latency"), error: await text("error"),
  elsewhere, problems,
};
await browser.close();
server.close();
console.log(JSON.stringify(seen));
