"""Models of vpgt in the evaluation programs that people use; nothing else imports from here."""
