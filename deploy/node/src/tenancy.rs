//! What the settings say about tenants, put in place: the guard before all routes, and what becomes of series.

use crate::{
    settings::TenancySettings,
    watch,
    web::{Field, Guard, Tenancy, Web},
};
use anyhow::{Context, ensure};
use axum::{Router, extract::Request, middleware};
use model::{env::Env, tenant::DEFAULT_TENANT, tenant::Tenant};
use receiver::{
    Receiver,
    relabel::{Relabel, RelabelRule},
    shape::Shaping,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// TLS and users as the settings say, followed while the process runs.
pub fn open_web(settings: &TenancySettings, env: &Env, stop: &CancellationToken) -> anyhow::Result<Arc<Web>> {
    match &settings.web_config_file {
        Some(path) => Web::follow(path.clone(), env, stop.clone()),
        None => Ok(Web::open()),
    }
}

/// The routes behind a guard; without one where the settings ask for nothing that needs it.
pub fn guard(router: Router, settings: &TenancySettings, web: &Arc<Web>, env: &Env) -> anyhow::Result<Router> {
    let is_usual = settings.web_config_file.is_none()
        && settings.headers.is_empty()
        && settings.default == DEFAULT_TENANT
        && !settings.basic_auth
        && settings.certificate_field.is_none();
    if is_usual {
        return Ok(router);
    }
    let headers = settings.headers.iter().map(|name| {
        let header = name.parse();
        header.with_context(|| format!("--tenant.header {name:?} is no name of a header"))
    });
    let tenancy = Tenancy {
        headers: headers.collect::<anyhow::Result<_>>()?,
        default: Tenant::new(&settings.default).context("--tenant.default")?,
        basic_auth: settings.basic_auth,
        certificate_field: settings.certificate_field.as_deref().and_then(Field::named),
    };
    let guard = Arc::new(Guard {
        web: Arc::clone(web),
        tenancy,
        spawn: Arc::clone(&env.spawn),
    });
    let stand = move |request: Request, next: middleware::Next| Guard::stand(Arc::clone(&guard), request, next);
    Ok(router.layer(middleware::from_fn(stand)))
}

/// Tells the receiver what becomes of series, now and when the file with the rules changes.
pub fn shape(
    receiver: &Arc<Receiver>,
    settings: &TenancySettings,
    env: &Env,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let tenant_label = settings.series_label.clone();
    if let Some(name) = &tenant_label {
        ensure!(
            model::label::is_legacy_name(name) && name != model::label::METRIC_NAME,
            "--tenant.series-label {name:?} is no name of a label that can be taken out"
        );
    }
    let Some(path) = settings.relabel_config_file.clone() else {
        if tenant_label.is_some() {
            receiver.shape_by(Shaping {
                tenant_label,
                ..Shaping::default()
            });
        }
        return Ok(());
    };
    let (receiver, shown) = (Arc::clone(receiver), path.display().to_string());
    let apply = move |text: &str| {
        let relabel = rules(text).with_context(|| shown.clone())?;
        let tenant_label = tenant_label.clone();
        receiver.shape_by(Shaping { relabel, tenant_label });
        Ok(())
    };
    let read = move |env: &Env| watch::read(env, &path);
    watch::follow("relabelling", env, read, apply, stop.clone())
}

fn rules(text: &str) -> anyhow::Result<Relabel> {
    if text.trim().is_empty() {
        return Ok(Relabel::default());
    }
    let rules: Vec<RelabelRule> = serde_saphyr::from_str(text).context("a list of relabel_configs is wanted")?;
    Relabel::new(rules).map_err(anyhow::Error::msg)
}
