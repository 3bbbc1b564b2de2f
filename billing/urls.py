from django.urls import path

from billing import request_pages, usage_downloads, views

app_name = "billing"
urlpatterns = [
    path("usage/", views.show_usage, name="usage"),
    path("usage.csv", views.download_usage, name="usage_csv"),
    path("usage-attempts.csv", usage_downloads.download_attempts, name="usage_attempts"),
    path("usage-focus.csv", usage_downloads.download_focus, name="usage_focus"),
    path("requests/", request_pages.find_request, name="find_request"),
    path("requests/<str:request_id>/", request_pages.show_request, name="request"),
]
