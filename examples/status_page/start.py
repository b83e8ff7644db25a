"""Send a task, and print the address of the page that follows it."""

from jobs import report

result = report.delay(50)
print(f"http://127.0.0.1:5000/#{result.status_url(expires=3600)}")
