// mongosh runs this script once at each start, in the network namespace of the first member. The
// script forms the replica set and creates the administrator and the user `persister`, who may read
// and write only the database `petbuddy`. Existing members and users stay, except that a new
// MONGO_PERSISTER_PASSWORD replaces the old one. Creates no collections and no indexes: the
// persister does.
//
// Environment: MONGO_MEMBERS (host:port of each member, comma separated, the first being the local
// one), MONGO_ADMIN_PASSWORD, MONGO_PERSISTER_PASSWORD.
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
// mongod allows the creation of a first user over loopback ("localhost exception"). Once there is a
// user, the script must log in.
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
      // The first member is preferred as primary, because the first user can be created only on
      // the primary and over loopback.
      members: members.map((host, index) => ({ _id: index, host, priority: index === 0 ? 2 : 1 })),
    },
  });
}

const deadline = Date.now() + PRIMARY_WAIT_MS;
while (!local.hello().isWritablePrimary) {
  if (Date.now() > deadline) fail(`${members[0]} did not become the primary within ${PRIMARY_WAIT_MS / 1000} s`);
  sleep(POLL_MS);
}

// Logs in again: another member may have been primary at first, and a fresh member gets the user
// by replication.
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
