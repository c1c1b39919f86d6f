"""Self-contained HTML: what the pages of reports share, style, players and plots."""
