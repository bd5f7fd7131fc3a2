"""What was found in the data, for people (one HTML page) and for programs (JSON)."""

REPORT_JSON = "report.json"
REPORT_PAGE = "report.html"
