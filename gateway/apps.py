from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class GatewayConfig(AppConfig):
    name = "gateway"
    verbose_name = "Gateway"


class TollgateAdminConfig(AdminConfig):
    default_site = "gateway.console.TollgateAdminSite"
