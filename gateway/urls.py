from django.contrib import admin
from django.urls import include, path

from gateway import experiment_pages, pages, views
from gateway.api import api
from gateway.google_api import api as google_api
from gateway.litellm_api import api as litellm_api

urlpatterns = [
    path("", pages.show_landing, name="landing"),
    path("v1/", api.urls),
    path("v1beta/", google_api.urls),
    path("health", views.health, name="health"),
    path("health/live", views.health_live),
    path("health/ready", views.health_ready),
    path("usage/experiments/", experiment_pages.show_experiments, name="experiments"),
    path("live/", views.show_live, name="live"),
    path("metrics", views.show_metrics, name="metrics"),
    path("", include("billing.urls")),
    path("admin/", admin.site.urls),
    path("", litellm_api.urls),
]
