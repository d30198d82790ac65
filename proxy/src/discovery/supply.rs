//! Keeps discovery up to date on the control thread: watches the file, follows the control plane, answers questions.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::ads::{self, Ads, AdsConfig};
use super::cache::{Cache, Question};
use super::dns::DnsSource;
use super::file::ServicesFile;

/// Keeps a [`Discovery`] up to date; belongs on the control thread.
#[derive(Debug)]
pub(crate) struct Supply {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Option<ServicesFile>,
    pub(super) asked: mpsc::Receiver<Question>,
    pub(super) dns: DnsSource,
    pub(super) ads: Option<(AdsConfig, mpsc::Receiver<ads::Question>)>,
}

impl Supply {
    /// Follows the services file and the control plane and answers questions for names, until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let Self {
            shared,
            file,
            asked,
            dns,
            ads,
        } = self;
        let ads = async {
            match ads {
                Some((config, asked)) => {
                    let ads = Ads::new(config, Arc::clone(&shared), asked);
                    Box::pin(ads.run()).await;
                }
                None => std::future::pending().await,
            }
        };
        let follow = async {
            match file {
                Some(file) => file.follow(&shared).await,
                None => std::future::pending().await,
            }
        };
        let answer = Cache::new(dns, &shared).run(asked);
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = follow => {}
            () = ads => {}
            () = answer => {}
        }
    }
}
