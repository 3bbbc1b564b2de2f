from django.urls import path

from billing import views

app_name = "billing"
urlpatterns = [
    path("usage/", views.show_usage, name="usage"),
    path("usage.csv", views.download_usage, name="usage_csv"),
]
