"""The report as a page for a browser: text out of a report, nothing else. Loaded when somebody asks for it."""
