-- Everybody is signed out; nothing else is lost.
DROP TABLE user_sessions;
