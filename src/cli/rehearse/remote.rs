//! A rehearsal in the daemon, beside its database.

use super::show::RehearsalDisplay;
use crate::{
    cli::{client::connection::ClientArgs, exit::CommandExit},
    pb::{self, rehearsal_event::Event, rehearse_request::Selection as Asked},
    rehearse::RehearsalSelection,
    runtime::shutdown,
};

pub(crate) async fn run(
    common: &ClientArgs,
    selection: RehearsalSelection,
) -> Result<(), CommandExit> {
    let selection = match selection {
        RehearsalSelection::Pending => None,
        RehearsalSelection::All => Some(Asked::All(true)),
        RehearsalSelection::Last(n) => {
            Some(Asked::Last(i32::try_from(n.get()).unwrap_or(i32::MAX)))
        }
    };
    let mut client = common.address.client()?;
    let following = async {
        let request = pb::RehearseRequest {
            selection,
            ..Default::default()
        };
        let mut stream = client
            .rehearse(request)
            .await
            .map_err(|status| common.address.explain(&status))?
            .into_inner();
        let (mut show, mut has_ended) = (RehearsalDisplay::new(common.output), false);
        loop {
            match stream.message().await {
                Ok(Some(pb::RehearseResponse {
                    event:
                        Some(pb::RehearsalEvent {
                            event: Some(event), ..
                        }),
                })) => match &event {
                    Event::Summary(summary) => {
                        has_ended = true;
                        show.summary(summary);
                    }
                    event => show.event(event),
                },
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(status) => {
                    if !has_ended {
                        show.broken_off();
                    }
                    return Err(common.address.explain(&status));
                }
            }
        }
    };
    let signalled =
        shutdown::signalled(shutdown::HangupAction::Ends).map_err(CommandExit::unavailable)?;
    tokio::select! {
        ended = following => ended,
        // The daemon ends what nobody listens to.
        _ = signalled => Err(CommandExit::interrupted("left; the daemon ends the rehearsal")),
    }
}
