-- A file of schema 2, as the second version of the ledger left it. Never regenerated.
PRAGMA journal_mode = WAL;
PRAGMA application_id = 1685081191;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE charges (
  round INTEGER, attempt INTEGER, subject INTEGER, server INTEGER, release INTEGER,
  minimum INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'committed', 'aborted')),
  survivors INTEGER, real_server INTEGER, real_release INTEGER,
  PRIMARY KEY (round, attempt, subject)
) WITHOUT ROWID;
INSERT INTO "charges" VALUES(0,0,1,NULL,2,2,'committed',2,NULL,4);
INSERT INTO "charges" VALUES(0,0,2,1,2,2,'committed',2,3,4);
INSERT INTO "charges" VALUES(1,0,1,5,5,0,'aborted',NULL,NULL,NULL);
INSERT INTO "charges" VALUES(1,0,2,6,6,0,'open',NULL,NULL,NULL);
CREATE TABLE events (
  id INTEGER PRIMARY KEY, json TEXT NOT NULL UNIQUE, one INTEGER NOT NULL, steps INTEGER NOT NULL
);
INSERT INTO "events" VALUES(1,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":2.0,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}',1,1);
INSERT INTO "events" VALUES(2,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":4.0,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}',2,1);
INSERT INTO "events" VALUES(3,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":1.5,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}',3,1);
INSERT INTO "events" VALUES(4,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":5.0,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}',4,1);
INSERT INTO "events" VALUES(5,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":3.0,"sampling":{"design":"poisson","rate":0.1},"steps":1,"unit":"example"}',5,1);
INSERT INTO "events" VALUES(6,'{"adjacency":"add_or_remove","kind":"gaussian","noise_multiplier":3.0,"sampling":{"design":"poisson","rate":0.1},"steps":2,"unit":"example"}',5,2);
CREATE TABLE records (seq INTEGER PRIMARY KEY, body TEXT NOT NULL, hash BLOB NOT NULL);
INSERT INTO "records" VALUES(0,'{"action":"create","budget":{"delta":1e-05,"epsilon":8.0},"keeper":"server","policy":"fixed plan","sealed":false}',X'A1EBA08E931CFDB6023922E5059B97B27A99BEF88C450D6C4179722410B2825F');
INSERT INTO "records" VALUES(1,'{"action":"budget","budgets":[[2.0,1e-06,["b"]]]}',X'BC6811BA788C9520F22F86A564F7C9CBBCEED055907A5F8D216BB4A8F46B4A93');
INSERT INTO "records" VALUES(2,'{"action":"reserve","attempt":0,"charges":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":2.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}","{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":4.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["a"]],[null,"{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":4.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["b"]]],"minimum":2,"round":0}',X'53DCD245029366ABCEC974D417ADA50A1D49FCE3E1D47BDF343B713E1F8DA15B');
INSERT INTO "records" VALUES(3,'{"action":"commit","attempt":0,"realised":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":1.5,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}","{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":5.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["server"],["server"],["a"]],[null,"{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":5.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",[],[],["b"]]],"round":0,"subjects":["a","b"],"survivors":2}',X'8421EB8A5C9E43BDC32F0FAAD76BD5C5BB8382736BCEAD7DC5BF113E278C0953');
INSERT INTO "records" VALUES(4,'{"action":"reserve","attempt":0,"charges":[["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":3.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":2,\"unit\":\"example\"}","{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":3.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":2,\"unit\":\"example\"}",["a"]],["{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":3.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}","{\"adjacency\":\"add_or_remove\",\"kind\":\"gaussian\",\"noise_multiplier\":3.0,\"sampling\":{\"design\":\"poisson\",\"rate\":0.1},\"steps\":1,\"unit\":\"example\"}",["b"]]],"minimum":0,"round":1}',X'6F26614F1D78752C319B2A2618CBC2779D674BE159869266900D7847F0288937');
INSERT INTO "records" VALUES(5,'{"action":"abort","attempt":0,"round":1,"subjects":["b"]}',X'7D4EEC42840ACD8EB72292745A22C0D5970CDAF8390D32EC99B65E3749C65756');
CREATE TABLE seal (
  only INTEGER PRIMARY KEY CHECK (only = 0), seq INTEGER NOT NULL, signature BLOB NOT NULL
);
CREATE TABLE spent (
  subject INTEGER, book INTEGER, event INTEGER,
  held INTEGER NOT NULL, realised INTEGER NOT NULL,
  PRIMARY KEY (subject, book, event)
) WITHOUT ROWID
;
INSERT INTO "spent" VALUES(1,0,5,0,0);
INSERT INTO "spent" VALUES(1,1,2,1,0);
INSERT INTO "spent" VALUES(1,1,4,0,1);
INSERT INTO "spent" VALUES(1,1,5,0,0);
INSERT INTO "spent" VALUES(2,0,1,0,0);
INSERT INTO "spent" VALUES(2,0,3,1,1);
INSERT INTO "spent" VALUES(2,0,5,2,2);
INSERT INTO "spent" VALUES(2,1,2,1,0);
INSERT INTO "spent" VALUES(2,1,4,0,1);
INSERT INTO "spent" VALUES(2,1,5,2,2);
CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epsilon REAL, delta REAL);
INSERT INTO "subjects" VALUES(1,'b',2.0,1.0e-06);
INSERT INTO "subjects" VALUES(2,'a',NULL,NULL);
COMMIT;
