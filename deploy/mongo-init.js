// Run once at each start by mongosh beside the first member (same network namespace): forms the replica set, makes the
// administrator and the user `persister`, who may read and write the database `petbuddy` and nothing else. Changes
// nothing that is already so; a new MONGO_PERSISTER_PASSWORD replaces the old one. It holds no data and makes no index:
// that is the persister's work.
//
// Environment: MONGO_MEMBERS (host:port of each, comma separated, the first is this one), MONGO_ADMIN_PASSWORD,
// MONGO_PERSISTER_PASSWORD.
const PRIMARY_WAIT_MS = 90_000;
const POLL_MS = 500;

const setting = (name) => {
  const value = process.env[name];
  if (!value) fail(`${name} is not set`);
  return value;
};
const fail = (why) => {
  print(`mongo-init: ${why}`);
  quit(1);
};

const members = setting("MONGO_MEMBERS").split(",");
const adminPassword = setting("MONGO_ADMIN_PASSWORD");
const persisterPassword = setting("MONGO_PERSISTER_PASSWORD");
// Over loopback mongod lets a first user be made ("localhost exception"); as soon as there is one, it must log in.
const port = members[0].split(":")[1];
const local = connect(`mongodb://127.0.0.1:${port}/admin?directConnection=true`);

const logIn = () => {
  try {
    local.auth("admin", adminPassword);
    return true;
  } catch (error) {
    return false;
  }
};

const loggedIn = logIn();
if (!local.hello().setName) {
  print(`mongo-init: forming the replica set of ${members.join(", ")}`);
  local.adminCommand({
    replSetInitiate: {
      _id: "rs0",
      // The first member leads when it can, because users can be made on the leader only, and over loopback.
      members: members.map((host, index) => ({ _id: index, host, priority: index === 0 ? 2 : 1 })),
    },
  });
}

const deadline = Date.now() + PRIMARY_WAIT_MS;
while (!local.hello().isWritablePrimary) {
  if (Date.now() > deadline) fail(`${members[0]} did not become the primary within ${PRIMARY_WAIT_MS / 1000} s`);
  sleep(POLL_MS);
}

// Tried again: another member may have led at first, and on a fresh member the user arrives with replication.
if (!loggedIn && !logIn()) {
  try {
    local.createUser({ user: "admin", pwd: adminPassword, roles: ["root"] });
  } catch (error) {
    fail(`cannot make or use the administrator (is MONGO_ADMIN_PASSWORD the one of the first start?): ${error.message}`);
  }
  local.auth("admin", adminPassword);
}

const petbuddy = local.getSiblingDB("petbuddy");
const roles = [{ role: "readWrite", db: "petbuddy" }];
if (petbuddy.getUser("persister")) petbuddy.updateUser("persister", { pwd: persisterPassword, roles });
else petbuddy.createUser({ user: "persister", pwd: persisterPassword, roles });
print("mongo-init: replica set and users are in place");
