"""What an agent saves for its next start: documents, versions, bound processes and path state."""
