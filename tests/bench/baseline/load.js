'use strict';
// Replaces the Express backend's database by the data of the benchmark of reads, which
// tests/bench/seed.py has written.   node load.js <MongoDB URI> <folder>
const fs = require('fs');
const path = require('path');
const readline = require('readline');
const { MongoClient, ObjectId } = require('mongodb');

const BATCH = 2000;
const IDS = ['_id', 'company_id', 'contact_id'];
const TIMES = ['created_at', 'updated_at'];

function toDocument(line) {
  const document = JSON.parse(line);
  for (const name of IDS) if (name in document) document[name] = new ObjectId(document[name]);
  for (const name of TIMES) if (name in document) document[name] = new Date(document[name]);
  return document;
}

async function load(collection, file) {
  let batch = [];
  for await (const line of readline.createInterface({ input: fs.createReadStream(file) })) {
    batch.push(toDocument(line));
    if (batch.length === BATCH) {
      await collection.insertMany(batch);
      batch = [];
    }
  }
  if (batch.length > 0) await collection.insertMany(batch);
}

async function main([uri, folder]) {
  const client = await MongoClient.connect(uri);
  // The indexes go too. The server's next start builds them in bulk.
  await client.db().dropDatabase();
  for (const name of ['contacts', 'messages']) {
    await load(client.db().collection(name), path.join(folder, `${name}.ndjson`));
  }
  await client.close();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
