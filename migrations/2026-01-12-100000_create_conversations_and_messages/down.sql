-- The dialogues are lost; their unique key was also the index of the messages' foreign key.
DROP TABLE messages;
DROP TABLE conversations;
