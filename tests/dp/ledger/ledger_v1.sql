-- A file of schema 1, as the first version of the ledger left it. Never regenerated.
PRAGMA journal_mode = WAL;
PRAGMA application_id = 1685081191;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE charges (
  subject TEXT, round INTEGER, attempt INTEGER, event INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'committed', 'aborted')),
  PRIMARY KEY (subject, round, attempt)
) WITHOUT ROWID;
INSERT INTO "charges" VALUES('a',0,0,1,'committed');
INSERT INTO "charges" VALUES('a',1,0,2,'open');
INSERT INTO "charges" VALUES('a',2,0,1,'open');
INSERT INTO "charges" VALUES('b',0,0,1,'committed');
INSERT INTO "charges" VALUES('b',1,0,1,'aborted');
INSERT INTO "charges" VALUES('b',1,1,1,'open');
CREATE TABLE events (id INTEGER PRIMARY KEY, json TEXT NOT NULL UNIQUE);
INSERT INTO "events" VALUES(1,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":2.0,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}');
INSERT INTO "events" VALUES(2,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":3.0,"sampling":{"design":"poisson","rate":0.1},"steps":2,"unit":"example"}');
INSERT INTO "events" VALUES(3,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":3.0,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}');
CREATE TABLE records (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL);
INSERT INTO "records" VALUES(0,'{"action":"create","budget":{"delta":1e-05,"epsilon":8.0}}',X'EA37CAB79A60A4002BA8A69BF54694C2037B22259AAAE66E18DBA425D7A432D3');
INSERT INTO "records" VALUES(1,'{"action":"reserve","attempt":0,"charges":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":2.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["a","b"]]],"round":0}',X'A4C9E58CFEEA03A7D60F843A7F067EC812D7FF52E481DBB6F90EB1E461C5D537');
INSERT INTO "records" VALUES(2,'{"action":"commit","attempt":0,"round":0,"subjects":["a","b"]}',X'D3B28F1E188F031CDD613FE668BC27BF42206B2ABEEB13C345CFE82889763749');
INSERT INTO "records" VALUES(3,'{"action":"reserve","attempt":0,"charges":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":3.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":2,\"unit\":\"example\"}",["a"]],["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":2.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["b"]]],"round":1}',X'BE9943448D342EE6EBE682CFFAE498C6AAB3240D772B20D954C0065CDCEB52AD');
INSERT INTO "records" VALUES(4,'{"action":"abort","attempt":0,"round":1,"subjects":["b"]}',X'F8B744324496C60294CADD3E0FF7E595BCAE0C6A6984F99E1B625816FF435B3E');
INSERT INTO "records" VALUES(5,'{"action":"reserve","attempt":0,"charges":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":2.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["a"]]],"round":2}',X'536C4FCBA8C3B75606055627D23F976C527D85CDB579C331D99BA43FCDE00247');
INSERT INTO "records" VALUES(6,'{"action":"reserve","attempt":1,"charges":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":2.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["b"]]],"round":1}',X'5A7F1C093A6E89169CDFEA57E1793841B2CA17F355540971666376AA9ABA90B2');
CREATE TABLE spent (
  subject TEXT, event INTEGER, steps INTEGER NOT NULL,
  PRIMARY KEY (subject, event)
) WITHOUT ROWID;
INSERT INTO "spent" VALUES('a',1,2);
INSERT INTO "spent" VALUES('a',3,2);
INSERT INTO "spent" VALUES('b',1,2);
COMMIT;
